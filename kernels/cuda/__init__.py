"""Kernels in CUDA C++, one file per kernel: functions that return source text, free of torch.

Every source starts with `torch2rt.kernels.cuda.prelude.PRELUDE`.
"""
