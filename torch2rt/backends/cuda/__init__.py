"""The CUDA backend: cuDNN graphs, cuBLASLt and our own kernels, replayed as one CUDA graph."""
