"""What ``silofold launch`` is made of: from the launcher that is found to the exit code that a job ends with."""
