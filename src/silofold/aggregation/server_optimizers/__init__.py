"""How an update moves the global model; each module names its class ``plugin``."""
