"""Backends: one folder per kind of device, with its buffers, streams and tactics."""
