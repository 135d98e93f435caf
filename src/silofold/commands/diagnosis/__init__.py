"""What ``silofold doctor`` looks at: this machine, folders and data, the ranks."""
