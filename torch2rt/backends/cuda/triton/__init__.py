"""Layers as launches of our Triton kernels, compiled ahead; nothing here imports Triton to run."""
