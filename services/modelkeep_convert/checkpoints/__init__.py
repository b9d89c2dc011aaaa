"""Main models in one file: which components there are, their configuration, their conversion."""
