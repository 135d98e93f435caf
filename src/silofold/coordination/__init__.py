"""The protocol's decisions as pure state machines: no clock, file, MPI, log or torch; time comes with each event."""
