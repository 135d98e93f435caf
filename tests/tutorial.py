"""Run the commands of a page, as a reader would who copies them: every ```sh block, in order, each command echoed.

    python tests/tutorial.py docs/tutorial.md

A command that fails ends it. The folder that the page writes to, ``tutorial/``, is removed first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the command line."""
    page = ROOT / sys.argv[1]
    shutil.rmtree(ROOT / "tutorial", ignore_errors=True)
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    began = time.monotonic()
    script = "set -euo pipefail\nset -v\n" + "\n".join(blocks)
    code = subprocess.run(["bash", "-c", script], cwd=ROOT, check=False, timeout=1200).returncode
    print(f"{page.relative_to(ROOT)}: {len(blocks)} blocks, exit code {code}, {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
