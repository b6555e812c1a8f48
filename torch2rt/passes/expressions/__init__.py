"""Algebra on scalar expressions: dtypes, simplification, activations, folding of constants."""
