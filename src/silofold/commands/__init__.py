"""What the commands are made of: a module for each, and what they share."""
