"""``silofold predict``: what a trained model sees in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from silofold.commands import options as shared
from silofold.commands.results import trained
from silofold.core import console, seeds
from silofold.core.errors import CheckpointError, ConfigError, DivergedError, SchemaError, SilofoldError
from silofold.data import picture
from silofold.training import local
from silofold.training import predict as predicting
from silofold.view import text

if TYPE_CHECKING:
    import argparse


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("predict")
    shared.add_model(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files of any size")
    parser.add_argument("--top", type=int, default=1, help="classes to name of each picture (default: 1)")
    parser.add_argument("--data", type=Path, help="folder of silos, where a checkpoint lies outside its run folder")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Say what a model sees in pictures, one line a picture: file, then class and probability, the likeliest first."""
    if options.top < 1:
        raise ConfigError("option-value", f"--top: found {options.top}, expected at least 1")
    found = trained.find(options.model)
    record = found.record()
    if options.data is None and record:
        classes, shape = record.classes, record.image_shape
    else:
        _, data = trained.manifest_of(found, options.data)
        classes, shape = data.classes, data.image_shape
    model, vectors = found.build(classes, shape)
    if len(vectors) != 1:
        raise CheckpointError(
            "model-count", f"{options.model}: holds {len(vectors)} models, one a silo; expected one model for all"
        )
    model.load(vectors[0])
    seed = seeds.torch_seed(found.settings.seed, "evaluate", found.manifest.round)
    code = 0
    names = [console.shown(str(path)) for path in options.images]
    width = max(map(len, names))
    for path, name in zip(options.images, names, strict=True):
        try:
            if path.is_dir():
                raise SchemaError(
                    "picture-read", f"{path}: found a folder, expected a picture file; name its files one by one"
                )
            image = picture.read(path, shape)
        except SilofoldError as fault:
            code = console.error(fault)
            continue
        pixels = np.array(image[None])  # a copy: what Pillow hands out may not be written, and torch warns of that
        sample = local.load(pixels, np.zeros(1, np.int64), model.vector.device)
        try:
            shares = np.exp(predicting.log_probabilities(model, sample.images, len(classes), seed)[0])
        except DivergedError as fault:
            raise DivergedError("diverged-model", f"{options.model}: {fault}; picture {path}") from None
        best = np.argsort(-shares, kind="stable")[: options.top]
        answers = "  ".join(f"{console.shown(classes[k])} {text.percent(shares[k])}" for k in best)
        console.write(f"{name:{width}}  {answers}\n")
    return code
