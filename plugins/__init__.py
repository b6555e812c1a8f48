"""Plugins shipped with torch2rt, one folder each, written against the public API alone.

The folder is installed as ``torch2rt.plugins``.
"""
