"""Whether a model can be imported and built, tried in a process of its own for one that is to stay without torch.

``python -m silofold.training.trial`` reads a `Question` from standard input and writes an `Answer`, each a line of JSON.
"""

from __future__ import annotations

import sys

import msgspec

from silofold.core import modules
from silofold.core.errors import SilofoldError


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is tried: the settings' table of the model, and what its data look like; without classes it is imported alone."""

    model: dict[str, object]
    seed: int
    classes: list[str]
    shape: list[int]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the model's parameters, or a fault in words and its id."""

    parameters: int = 0
    fault: str = ""
    id: str = ""


def answer(asked: Question) -> Answer:
    """Import the model and, where the data are known, build it."""
    import torch  # noqa: PLC0415  (who imports this module for its structs stays without torch)

    from silofold.core import plugins  # noqa: PLC0415  (likewise)
    from silofold.training import build  # noqa: PLC0415  (likewise)

    try:
        if not asked.classes:
            plugins.find("model", str(asked.model["name"]))
            return Answer()
        model = build.build(asked.model, asked.classes, tuple(asked.shape), asked.seed, torch.device("cpu"))
    except SilofoldError as fault:
        return Answer(fault=str(fault), id=fault.id)
    except Exception as fault:  # noqa: BLE001  (the user's code may raise anything)
        return Answer(fault=f"model {asked.model['name']}: {type(fault).__name__}: {' '.join(str(fault).split())[:200]}")
    return Answer(parameters=model.size)


def main() -> None:
    """Answer one question."""
    modules.settle()
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.write(f"\n{msgspec.json.encode(answer(asked)).decode()}\n")


if __name__ == "__main__":
    main()
