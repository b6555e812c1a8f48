"""Fusions: rewrites of the network, ONE FILE PER FUSION."""
