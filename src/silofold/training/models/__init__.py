"""Models that come with silofold; each module names its class ``plugin``."""
