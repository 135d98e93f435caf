"""Words that every part of the program knows; nothing here imports another part of it."""
