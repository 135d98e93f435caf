"""Options that say where pictures come from and what is made of them: of ``silofold pack`` and ``silofold partition``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from silofold.data.wishes import Wishes


def add(parser: argparse.ArgumentParser, *, silo: bool = True) -> None:
    """Add the options; `silo` says whether silos are those of the source."""
    table = parser.add_argument_group("what says what a picture is")
    table.add_argument(
        "--labels", type=Path, metavar="FILE", help="a table (.csv, .tsv, .parquet); of .npy pictures, labels"
    )
    table.add_argument("--image", metavar="NAME", help="column or array of the pictures (default: file, image, images)")
    table.add_argument("--label", metavar="NAME", help="column or array of the classes (default: label, labels)")
    if silo:
        table.add_argument("--silo", metavar="NAME", help="column or array of the silos (default: all are one silo)")
        table.add_argument("--name", metavar="SILO", help="name of that one silo (default: IN's)")
    table.add_argument("--group", metavar="NAME", help="column or array of what must stay together: the patient, the writer")
    table.add_argument("--fold", metavar="NAME", help="column or array that says train, validation or test")
    table.add_argument("--map", type=Path, metavar="FILE", help="a table with the columns from, to: other names of classes")
    table.add_argument("--suffix", default="", metavar=".EXT", help="what the table's names of files lack: .png")
    made = parser.add_argument_group("what is made of the pictures")
    made.add_argument("--size", metavar="N|HxW", help="height and width in pixels (default: 32; of arrays, their own)")
    made.add_argument("--mode", choices=("L", "RGB"), help="gray or colour (default: L; of arrays, their own)")
    made.add_argument(
        "--fit", choices=("squash", "pad", "crop"), default="squash",
        help="squash: the aspect is not kept; pad: black beside it; crop: its middle (default: squash)",
    )  # fmt: skip
    made.add_argument("--range", metavar="LOW,HIGH", help="of more than 8 bits: what becomes black and white")
    made.add_argument("--classes", metavar="NAMES", help="'auto', names with commas, or a file with one a line")
    made.add_argument("--like", type=Path, metavar="DIR", help="sizes and classes of another folder of silos")
    made.add_argument("--source", metavar="WORDS", help="where the pictures come from, for the record")
    split = parser.add_argument_group("splits")
    split.add_argument(
        "--split", metavar="A,B,C", help="draw train, validation and test anew: 0.7,0.1,0.2; groups stay whole"
    )
    split.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    split.add_argument("--allow-empty-test", dest="empty_test", action="store_true", help="let a silo lack test data")


def wishes_of(options: argparse.Namespace) -> Wishes:
    """Turn parsed options into what is wished."""
    from silofold.commands.data_tool import seed
    from silofold.data.sources.columns import Columns
    from silofold.data.wishes import Wishes

    same = ("labels", "size", "mode", "classes", "like", "fit", "range", "map", "suffix", "split", "source")
    given: dict[str, Any] = {name: getattr(options, name) for name in same}
    given |= {name: getattr(options, name, None) for name in ("name", "users", "silos")}
    columns = Columns(options.image, options.label, getattr(options, "silo", None), options.group, options.fold)
    external = tuple(getattr(options, "external", ()))
    return Wishes(**given, columns=columns, external=external, seed=seed(options.seed), allow_empty_test=options.empty_test)
