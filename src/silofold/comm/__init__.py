"""Communication: the only department that imports mpi4py."""
