"""Which silos train in a round; each module names its class ``plugin``."""
