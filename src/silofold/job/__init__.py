"""A job from what is asked for to DONE, on every rank."""
