"""Passes: steps over the whole network, listed in order in `pipeline`."""
