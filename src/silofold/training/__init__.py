"""Local training: the only department that imports torch."""
