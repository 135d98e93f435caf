"""Tell every fault of a folder of silo files at once.

Faults go to stdout, one a line, and end the tool with exit code 1; a folder without faults gives one line and 0.
Test pictures that also stand in a train split are a warning on stderr: real data has some.
"""

from __future__ import annotations

import sys

from silofold.commands import data_tool, verify_silos


def main() -> int:
    """Run the tool."""
    return data_tool.script(verify_silos, __doc__)


if __name__ == "__main__":
    sys.exit(main())
