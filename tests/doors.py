"""One small set of pictures in every form that ``silofold pack`` takes, and the command as users call it."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from PIL import Image

from silofold import cli

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from numpy.typing import NDArray

SIDE = 28
CLASSES = ("1", "3", "20")


class Row(NamedTuple):
    """A picture: its number, silo, group, class and split."""

    number: int
    silo: str
    label: str
    split: str


def rows() -> list[Row]:
    """Four writers, each a silo: of each class 3 train pictures and 1 test picture; numbers rise within all of them."""
    found: list[Row] = []
    for place in range(4):
        for silo in ("f0_1", "f0_10", "f0_2", "f0_3"):
            for label in CLASSES:
                found.append(Row(len(found), silo, label, "test" if place == 2 else "train"))
    return found


def image(number: int, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (side, side), np.uint8)


def name(row: Row) -> str:
    return f"{row.number}.png"


def tree(root: Path) -> Path:
    for row in rows():
        path = root / row.silo / row.split / row.label / name(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(row.number)).save(path)
    return root


def flat(root: Path) -> Path:
    """All pictures in one folder."""
    root.mkdir(parents=True, exist_ok=True)
    for row in rows():
        Image.fromarray(image(row.number)).save(root / name(row))
    return root


HEAD = ["file", "diagnosis", "hospital", "patient", "part"]


def cells(row: Row) -> list[str]:
    return [name(row), row.label, row.silo, row.silo, row.split]


def table(path: Path, lines: list[list[str]] | None = None, head: list[str] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(head or HEAD)
        writer.writerows([cells(row) for row in rows()] if lines is None else lines)
    return path


COLUMNS = ("--image", "file", "--label", "diagnosis", "--silo", "hospital", "--group", "patient")
FOLD = ("--fold", "part")


def arrays() -> dict[str, NDArray[Any]]:
    found = rows()
    return {
        "images": np.stack([image(row.number) for row in found]),
        "labels": np.array([int(row.label) for row in found]),
        "silo": np.array([row.silo for row in found]),
        "split": np.array([row.split for row in found]),
    }


def npz(path: Path) -> Path:
    found: dict[str, Any] = arrays()
    np.savez_compressed(path, **found)
    return path


def h5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in arrays().items():
            if values.dtype.kind == "U":
                file[key] = [str(value) for value in values]
            else:
                file.create_dataset(key, data=values, compression="gzip", chunks=True)
    return path


def leaf(root: Path) -> Path:
    for split in ("train", "test"):
        data: dict[str, dict[str, list[Any]]] = {}
        for row in rows():
            if row.split == split:
                user = data.setdefault(row.silo, {"x": [], "y": []})
                user["x"].append((image(row.number).reshape(-1) / 255).tolist())
                user["y"].append(int(row.label))
        text = {"users": list(data), "num_samples": [len(user["y"]) for user in data.values()], "user_data": data}
        (root / split).mkdir(parents=True)
        (root / split / "all_0.json").write_text(json.dumps(text))
    return root


def silofold(*words: object) -> int:
    """Call the command in this process."""
    return cli.main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], out: Path, words: tuple[object, ...], *said: str) -> None:
    """Check that a command ends with 2 and one line that says all of this, and leaves nothing behind."""
    capsys.readouterr()
    code = silofold(*words)
    told = capsys.readouterr().err.splitlines()
    assert (code, len(told)) == (2, 1), told
    assert told[0].startswith("silofold: error: ")
    for word in said:
        assert word in told[0], told[0]
    assert not out.exists()
