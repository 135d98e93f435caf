"""The silo file: how pictures of one data owner lie on disk."""
