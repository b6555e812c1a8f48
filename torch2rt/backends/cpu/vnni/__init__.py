"""Convolutions of bytes: products of four at once (AVX512_VNNI), all sums in registers."""
