"""Tasks, one a module."""
