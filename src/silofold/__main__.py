"""Entry point of ``python -m silofold``."""

from __future__ import annotations

import sys

from silofold.core import modules

modules.settle()  # before anything is imported that a file of the current folder could hide

from silofold.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
