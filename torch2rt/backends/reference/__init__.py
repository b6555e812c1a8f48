"""The reference backend: every layer through torch, the oracle of all others."""
