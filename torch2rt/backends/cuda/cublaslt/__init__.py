"""cuBLASLt through ctypes: matrix products with bias, residual and tanh-GELU. Needs no torch."""
