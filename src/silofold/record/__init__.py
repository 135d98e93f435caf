"""What a run leaves, and what it resumes from."""
