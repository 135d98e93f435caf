"""``silofold partition``: a set is cut into silos on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool, source_options
from silofold.commands.stats import tell_classes
from silofold.core.endings import DONE
from silofold.core.errors import SchemaError

if TYPE_CHECKING:
    import argparse

    from silofold.commands import options as shared

TEXT = """Cut a set into silos: IN is a folder of silos, or whatever `silofold pack` takes.

  iid              shuffled and dealt; sizes differ by one at most
  dirichlet        each class is shared out by Dir(--alpha); --least pictures each, --balanced
  classes          --per-silo classes each, of which silo i has class i mod C; who holds a class shares it evenly
  shards           sorted by class, cut into shards, --per-silo of them dealt to each silo at random
  quantity         equal mixes, unequal sizes: --shape dirichlet (--alpha), linear, or lognormal (--sigma)
  sizes            --sizes 100,200,50 pictures at random; the rest is left out
  inner-dirichlet  fixed sizes (even, or --sizes), and a class mix from Dir(--alpha) each
  group            whole groups, consecutive in name order
  --noise S        besides: Gaussian noise on the pixels, from none in the first silo to S x 255 in the last

Pictures keep their split unless --split is given. The same seed gives the same silos. What cannot be done is refused;
what tears groups apart says so, once on standard error and in silos.json.

example:
  silofold partition silos skewed --by dirichlet --alpha 0.1 --silos 10 --seed 1
"""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "partition", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", metavar="IN", type=Path, help="a folder of silos, or what `pack` takes")
    data_tool.add_out(parser)
    parser.add_argument("--by", required=True, metavar="METHOD", help="one of those above")
    parser.add_argument("--silos", type=int, metavar="N", help="how many (default: as many as --sizes)")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="smaller is more skewed (default: 0.5)")
    parser.add_argument("--sigma", type=float, default=1.0, metavar="S", help="of log-normal sizes (default: 1)")
    parser.add_argument("--per-silo", type=data_tool.count, default=2, metavar="N", help="classes or shards (default: 2)")
    parser.add_argument("--least", type=data_tool.count, default=1, metavar="N", help="pictures a silo (default: 1)")
    parser.add_argument("--balanced", action="store_true", help="dirichlet: a silo with its even share gets no more")
    parser.add_argument(
        "--shape", choices=("dirichlet", "linear", "lognormal"), default="dirichlet", help="of quantity (default: dirichlet)"
    )
    parser.add_argument("--sizes", metavar="N,N,…", help="pictures of each silo")
    parser.add_argument("--noise", type=float, default=0.0, metavar="S", help="of the last silo, 0 to 1 (default: 0)")
    source_options.add(parser, silo=False)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw classes by silo: .svg or .png (extra report)")
    data_tool.add_jobs(parser)


def main(options: argparse.Namespace) -> int:
    """Cut, and print what each silo got."""
    from silofold.data import stats
    from silofold.data.cut import Cut
    from silofold.data.recut import recut

    sizes = _sizes(options.sizes)
    if sizes and options.by not in {"sizes", "inner-dirichlet"}:
        raise SchemaError("tool-option", f"--sizes: means nothing with --by {options.by}")
    if options.by == "sizes" and not sizes:
        raise SchemaError("tool-option", "--by sizes: expected --sizes too: 100,200,50")
    if sizes and options.silos not in {None, len(sizes)}:
        raise SchemaError("tool-option", f"--silos: found {options.silos}, expected {len(sizes)}, as many as --sizes")
    if not sizes and options.silos is None:
        raise SchemaError("tool-option", "--silos: expected a number of silos")
    picture = data_tool.picture_file(options.picture)
    wishes = replace(source_options.wishes_of(options), silos=None)
    cut = Cut(
        options.by, len(sizes) or options.silos, wishes.seed, options.alpha, options.sigma, options.per_silo,
        options.least, options.balanced, options.shape, sizes, options.noise,
    )  # fmt: skip
    manifest, told = recut(options.folder, options.out, cut, wishes, options.jobs)
    counts = stats.class_counts(manifest)
    tell_classes([silo.name for silo in manifest.silos], list(manifest.classes), counts)
    data_tool.tell(f"digest {manifest.digest}")
    for line in told:
        data_tool.warn(options, line)
    if picture:
        data_tool.draw(picture, [silo.name for silo in manifest.silos], list(manifest.classes), counts.tolist())
    return DONE.code


def _sizes(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = text.split(",")
    if not all(part.strip().isdigit() and part.isascii() and len(part) < 16 for part in parts):
        raise SchemaError("tool-option", f"--sizes {text}: expected whole numbers with commas: 100,200,50")
    return tuple(int(part) for part in parts)
