"""``silofold leaf`` as a script: the same options and the same output, from a checkout."""

from __future__ import annotations

import sys

from silofold.commands import data_tool, leaf


def main() -> int:
    """Run the tool."""
    return data_tool.script(leaf, leaf.TEXT)


if __name__ == "__main__":
    sys.exit(main())
