"""Entry point of ``python -m silofold``."""

from __future__ import annotations

import sys

from silofold.cli import main

if __name__ == "__main__":
    sys.exit(main())
