"""How the cohort's updates become one update; each module names its class ``plugin``."""
