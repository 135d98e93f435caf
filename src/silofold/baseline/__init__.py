"""A baseline: what federating is measured against, trained by the processes of one machine."""
