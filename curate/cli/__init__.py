"""The `curate` command: one file a command; each calls the Python API and prints."""
