"""What follows in each phase: one file a phase, each with its `advance`."""
