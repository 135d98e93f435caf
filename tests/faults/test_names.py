"""Names that come from elsewhere forge no line on terminals, in logs and tables, whoever shows them."""

from __future__ import annotations

import csv
import json
import logging
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

import made_run
from records import summary
from silofold import cli
from silofold.core.summary import SiloSummary
from silofold.record import log
from silofold.record.sinks.csv import Csv, CsvSettings
from silofold.view import live, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from silofold.record.rundir import RunFolder

EVIL = "north\nsilofold: error: forged\r\x1b[31m\u202e"
ENTRY = SiloSummary(
    silo=0, name=EVIL, accuracy=0.5, test_examples=2, train_examples=3, train_loss=1.0, reason=f"ValueError: {EVIL}"
)


def harmless(told: str) -> bool:
    """Whether what was written holds neither a control character nor a line that a name has begun."""
    lines = told.splitlines()
    return all(line.isprintable() and not line.startswith("silofold: error: forged") for line in lines) and "\\x1b" in told


def test_tables_and_the_live_view() -> None:
    assert harmless(text.table(["silo", EVIL], [[EVIL, "1"]]))
    state = live.State([summary(1, silos=[ENTRY])], wanted=2, elapsed=1.0, since=0.5, late=[EVIL])
    told = live.lines(state, 200)
    assert len(told) == 8
    assert harmless("\n".join(told))


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[logging.Logger]:
    """The program's logger, with a file."""
    root = logging.getLogger("silofold")
    before = root.handlers[:], root.level, root.propagate
    root.handlers = []
    log.start(tmp_path / "worker_0" / "worker.log", "worker_0")
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level, root.propagate = before


def test_a_record_of_the_log_is_one_line(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            monkeypatch.setattr(handler, "stream", sys.stderr)
    logger.warning("silo %s: cannot be evaluated", EVIL)
    try:
        raise ValueError(EVIL)  # noqa: TRY301  (a traceback is what is asked for)
    except ValueError as fault:
        logger.warning("silo failed: %s", fault, exc_info=True)
    written = (tmp_path / "worker_0" / "worker.log").read_text(encoding="utf-8")
    for told in (written, capsys.readouterr().err):
        assert harmless(told)
        lines = told.splitlines()
        assert len([line for line in lines if " worker_0 WARNING " in line]) == 2
        assert all(line[24:].startswith(("worker_0 WARNING ", "worker_0 INFO ")) or line[:4] == "    " for line in lines)


def test_a_log_never_leads_out_of_its_folder(logger: logging.Logger, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    path = tmp_path / "worker_1" / "worker.log"
    path.parent.mkdir()
    path.symlink_to(mine)
    log.start(path, "worker_1")
    logger.warning("a line")
    assert mine.read_text() == "precious"
    assert "a line" in path.read_text()


def test_the_table_has_a_row_a_round_and_no_formula(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (tmp_path / "metrics.csv").symlink_to(mine)
    sink = Csv(CsvSettings())
    told = [
        msgspec.structs.replace(ENTRY, silo=k, name=name) for k, name in enumerate((EVIL, "=cmd|' /C calc'!A0", "@SUM(1)"))
    ]
    sink.open(tmp_path, [summary(1, silos=told), summary(2, silos=told)])
    sink.close()
    written = (tmp_path / "metrics.csv").read_text(encoding="utf-8")
    assert harmless(written)
    assert len(written.splitlines()) == 3
    cells = [cell for row in csv.reader(written.splitlines()) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert mine.read_text() == "precious"


def test_a_run_of_silos_with_such_names(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"run{EVIL}"
    folder = made_run.make(out, tiny)
    record = json.loads(folder.record.read_text())
    record["silos"] = [one | {"name": f"{EVIL}{index}"} for index, one in enumerate(record["silos"])]
    record["ranks"] = [{"rank": 0, "role": EVIL, "host": EVIL}]
    folder.write_record(record)
    status(folder)
    for command in (["status", str(out)], ["verify", str(out)], ["evaluate", str(out)], ["compare", str(out), str(out)]):
        assert cli.main(command) in {0, 2, 75}
        seen = capsys.readouterr()
        assert harmless(seen.out + seen.err), command


def status(folder: RunFolder) -> None:
    """Write a status in which every text is such a name."""
    texts = {"host": EVIL, "phase": EVIL, "ended": "", "waiting_for": [EVIL], "late": {EVIL: 2}, "workers": [EVIL]}
    numbers = dict.fromkeys(("written", "started", "round_seconds", "usual_seconds"), 2.0) | {"round": 1, "counted": 1}
    rest = {"wanted": 2, "standbys": [EVIL], "dead": [EVIL], "benched": [4]}
    folder.status.write_text(json.dumps(texts | numbers | rest))
