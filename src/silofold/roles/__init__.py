"""The three roles: the only place where departments meet."""
