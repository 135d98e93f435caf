"""A contact sheet of silos: some pictures of each, drawn by chance from a seed, with their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from silofold.core.console import shown
from silofold.core.errors import SchemaError
from silofold.data.manifest import read_manifest
from silofold.data.reader import read_split
from silofold.data.samples import few

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.data.schema import Manifest, Split, SplitName

SIDE: Final = 64
"""Pixels of a picture on the sheet, at least."""
MOST_PIXELS: Final = 100_000_000
_MARGIN, _LINE, _NAMES = 6, 14, 160


def draw(folder: Path, names: Sequence[str], split: SplitName, columns: int, seed: int) -> Image.Image:
    """Draw a row for each silo.

    Parameters
    ----------
    names
        Silos to show; all of them if none is named.
    columns
        Pictures of each.

    Raises
    ------
    SchemaError
        The folder is damaged, there is no such silo or split, or the sheet would be too large.
    """
    manifest = read_manifest(folder, external=True)
    known = {silo.name: silo for silo in manifest.silos}
    strange = next((name for name in names if name not in known), None)
    if strange is not None:
        raise SchemaError("tool-option", f"--silo {strange}: no such silo, expected one of {few(known)}")
    if split not in manifest.splits:
        raise SchemaError("tool-option", f"--split {split}: {folder} has {', '.join(manifest.splits)} alone")
    silos = [known[name] for name in names] or list(manifest.silos)
    factor = max(1, -(-SIDE // max(manifest.image_shape[:2])))
    height, width = (factor * side for side in manifest.image_shape[:2])
    size = _NAMES + columns * (width + _MARGIN), len(silos) * (height + _LINE + _MARGIN) + _MARGIN
    if size[0] * size[1] > MOST_PIXELS:
        raise SchemaError(
            "tool-option",
            f"{folder}: found a sheet of {size[0]}x{size[1]} pixels, expected at most {MOST_PIXELS}; name "
            "silos with --silo, or show fewer pictures of each with --columns",
        )
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, silo in enumerate(silos):
        top = _MARGIN + row * (height + _LINE + _MARGIN)
        info = silo.split(split)
        number = info.examples if info else 0
        _write(pen, (_MARGIN, top), f"{shown(silo.name)[:24]}\n{split}: {number}")
        if number:
            found = read_split(folder, silo, split, manifest)
            chosen = np.sort(np.random.default_rng([seed, row]).choice(number, min(columns, number), replace=False))
            for column, place in enumerate(chosen.tolist()):
                left = _NAMES + column * (width + _MARGIN)
                _picture(sheet, pen, found, place, manifest, (left, top, width, height))
    return sheet


def _picture(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    found: Split,
    place: int,
    manifest: Manifest,
    box: tuple[int, int, int, int],
) -> None:
    left, top, width, height = box
    picture = Image.fromarray(found.images[place]).convert("RGB")
    sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
    name = shown(manifest.classes[int(found.labels[place])])
    _write(pen, (left, top + height), name[: max(3, width // 6)])


def _write(pen: ImageDraw.ImageDraw, where: tuple[int, int], text: str) -> None:
    """Write with the font that Pillow has in itself, which knows no letter beyond Latin-1."""
    pen.text(where, text.encode("latin-1", "replace").decode("latin-1"), fill="black")
