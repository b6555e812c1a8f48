"""The structure of a model's arguments and outputs, kept in engines: pytrees with names."""
