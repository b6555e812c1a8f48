"""Products of few rows by weights that are stored in 8 bits, by kernels of our own."""
