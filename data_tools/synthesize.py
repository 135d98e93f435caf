"""``silofold synthesize`` as a script: the same options and the same output, from a checkout."""

from __future__ import annotations

import sys

from silofold.commands import data_tool, synthesize


def main() -> int:
    """Run the tool."""
    return data_tool.script(synthesize, synthesize.TEXT)


if __name__ == "__main__":
    sys.exit(main())
