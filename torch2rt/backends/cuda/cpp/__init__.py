"""Layers as launches of our CUDA C++ kernels: what tactics of one family share."""
