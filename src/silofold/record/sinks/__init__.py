"""Where round summaries go; each module names its class ``plugin``."""
