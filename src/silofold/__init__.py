"""silofold: federated learning as a batch job, one MPI program over data silos."""

__version__ = "0.1.0"
