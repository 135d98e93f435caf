"""Where modules are looked for, the same for every command: PYTHONPATH, the environment, and the current folder last.

So a user's ``models.py`` there is found, and a ``random.py`` or ``torch.py`` there hides nothing of Python's or of the
libraries. This module imports what Python has loaded already, and nothing else.
"""

from __future__ import annotations

import os
import sys


def settle() -> None:
    """Put the current folder last, here and in the Python processes that this one starts."""
    try:
        here = os.getcwd()  # noqa: PTH109  (pathlib could be the user's until this is done)
    except OSError:  # the folder is gone
        here = ""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here in {os.path.abspath(entry) for entry in named if entry}:  # noqa: PTH100  (likewise)
        # said by name, it stays where PYTHONPATH stands; `python -m` has put it before that once more
        last = max((index for index, entry in enumerate(sys.path) if entry == here), default=0)
        sys.path[:] = [entry for index, entry in enumerate(sys.path) if entry and (entry != here or index == last)]
    else:
        sys.path[:] = [entry for entry in sys.path if entry not in {"", here}]
        sys.path += [here] if here else []
    os.environ["PYTHONSAFEPATH"] = "1"
