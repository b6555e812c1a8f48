"""Convolution with fewer multiplications: Winograd's F(m x m, 3 x 3) with compiled transforms."""
