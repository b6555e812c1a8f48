"""Quantization: what is seen of activations, the ranges chosen, the table of them, the layers."""
