"""Engines: network, weights and plans; contexts that run them; the file they are saved in."""
