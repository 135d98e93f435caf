"""``silofold pack``: pictures in, a folder of silos out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool, source_options
from silofold.core.console import shown
from silofold.core.endings import DONE

if TYPE_CHECKING:
    import argparse

    from silofold.commands import options as shared
    from silofold.data.schema import Manifest

TEXT = """Pack pictures into silo files: silo_0000.h5, silo_0001.h5, … and silos.json.

IN is one of these, which are told apart by what they hold:
  a raw tree         <writer>/{train,test}/<class>/<picture>     each writer is one silo, or see --silos
  a combined tree    dataset_<i>/{train,test}/<class>/<picture>  each dataset is one silo
  LEAF's JSON        {train,test}/*.json                         each user is one silo, or see --silos
  class folders      <class>/<picture>, or splits above them     one silo
  a folder, a table  IN --labels labels.csv                      a row a picture
  arrays             .npz, .h5, or .npy with --labels y.npy      nothing is ever unpickled
  Parquet            a file or a folder of them                  bytes of pictures in a column
  silos              a folder of silos                           to split or to size it anew
With --silos the first --users writers in name order are spread evenly over that many silos.
Pictures are turned to --mode, then brought to --size by bilinear interpolation.

examples:
  silofold pack tree silos --users 35 --silos 7
  silofold pack images silos --labels labels.csv --image file --label diagnosis \\
      --silo hospital --group patient --split 0.7,0.1,0.2 --seed 1 --size 64 --mode RGB
  silofold pack mnist.npz silos --split 0.8,0,0.2
"""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "pack", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", metavar="IN", type=Path, help="what holds the pictures, see above")
    data_tool.add_out(parser)
    parser.add_argument("--users", type=data_tool.count, metavar="N", help="writers to take, in name order (default: all)")
    parser.add_argument("--silos", type=data_tool.count, metavar="N", help="silos to make of them (default: one a writer)")
    source_options.add(parser)
    parser.add_argument(
        "--external", action="append", default=[], metavar="SILO", help="a silo for testing only; repeatable"
    )
    data_tool.add_jobs(parser)


def main(options: argparse.Namespace) -> int:
    """Pack, and tell what came out."""
    from silofold.data.pack import pack
    from silofold.data.wishes import FOUND, kind_in

    wishes = source_options.wishes_of(options)
    kind = kind_in(options.folder, wishes)
    data_tool.tell(f"{options.folder}: found {FOUND[kind]}")
    manifest, told = pack(options.folder, options.out, wishes, options.jobs)
    tell_silos(manifest)
    for line in told:
        data_tool.warn(options, line)
    return DONE.code


def tell_silos(manifest: Manifest) -> None:
    """Print a line for each silo."""
    second = manifest.schema > 1
    width = max(*(len(shown(silo.name)) for silo in manifest.silos), 4 if second else 1)
    groups = f"{manifest.group}s" if second else "writers"
    middle = f" {'valid':>7}" if second else ""
    data_tool.tell(
        f"{'silo':{width}}  {'file':12} {groups:>7} {'train':>8}{middle} {'test':>7}" + ("  role" if second else "")
    )
    for silo in manifest.silos:
        valid = f" {silo.validation.examples if silo.validation else 0:7}" if second else ""
        sizes = f"{len(silo.writers):7} {silo.train.examples:8}{valid} {silo.test.examples:7}"
        data_tool.tell(f"{shown(silo.name):{width}}  {silo.file:12} {sizes}" + (f"  {silo.role}" if second else ""))
    sums = {split: sum(info.examples for silo in manifest.silos if (info := silo.split(split))) for split in manifest.splits}
    valid = f" {sums['validation']:7}" if second else ""
    writers = sum(len(silo.writers) for silo in manifest.silos)
    data_tool.tell(f"{'sum':{width}}  {len(manifest.silos):<12} {writers:7} {sums['train']:8}{valid} {sums['test']:7}")
    data_tool.tell(f"digest {manifest.digest}")
