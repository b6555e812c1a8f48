"""The CPU backend: oneDNN through ctypes first, torch operators second."""
