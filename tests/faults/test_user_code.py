"""Whole jobs with code of the user's own that breaks, diverges or draws: the true cause, once, with the right exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpirun
from budget import whole_run
from run_folder import rounds
from tiny_silos import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

WHERE = {"PYTHONPATH": str(Path(__file__).parents[1])}
QUICK = ("local.epochs=1", "rounds.count=3", "rounds.start_window=60")


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small silos."""
    return pack(tmp_path_factory.mktemp("even") / "silos", (40, 32, 24))


def train(recipe: Path, data: Path, out: Path, *settings: str, ranks: int = 4) -> mpirun.Ended:
    return mpirun.train(ranks, recipe, data, out, *QUICK, *settings, environment=WHERE)


def told(ended: mpirun.Ended) -> str:
    """The one line about the fault."""
    lines = [line for line in ended.faults() if "error: " in line]
    assert len(lines) == 1, ended
    assert "Traceback" not in ended.err
    return lines[0]


def own(name: str) -> str:
    return f'model={{name="odd_models:{name}"}}'


def later(what: str, when: str = "train") -> str:
    return f'model={{name="odd_models:Later",what="{what}",when="{when}"}}'


AT_START = [
    ('Raises",what="GeneratorExit",when="train', 4, ("GeneratorExit: why",)),
    ('Raises",what="KeyboardInterrupt",when="backward', 4, ("KeyboardInterrupt",)),
    ("Raises", 4, ("KeyError", "odd_models.py:", " in _raise)")),
    ("AssignsData", 4, ("1.weight", "copy_")),
    ("TwoWhileTraining", 4, ("TwoWhileTraining", "tuple of 2")),
    ("ReplacesBuffer", 4, ("mean", "copy_")),
    ("PlainMean", 4, ("attribute mean", "register_buffer")),
    ("UnseededProjection", 4, ("projection",)),
    ("Named", 4, ("Named", "dict with the keys logits")),
    ("NotANumber", 4, ("not finite",)),
    ("UnreadableExtra", 4, ("weights_only",)),
    ("NoSuchModel", 2, ("has no NoSuchModel",)),
]
LATER = [
    (own("RaisesLater"), 4, ("SystemExit: 0", "odd_models.py:", "3 void rounds in a row")),
    (own("NotANumberLater"), 3, ("no finite logit for 33 of 33 test images", "local.lr = 0.05")),
    (own("RaisesEvaluatingLater"), 4, ("evaluating silo silo_0000", "KeyError")),
    (later("GeneratorExit"), 4, ("GeneratorExit: why", "3 void rounds in a row")),
    (later("KeyboardInterrupt", "evaluate"), 4, ("evaluating silo silo_0000", "KeyboardInterrupt: why")),
    (later("layer"), 4, ("more.weight", "from the start")),
    (later("file"), 4, ("KeyError: 'why'",)),
    (later("entry", "evaluate"), 4, ("other entries", "more")),
    ("local.lr=1e6", 3, ("3 void rounds in a row", "round 3, silo silo_000", "local.lr = 1e+06")),
    ('server_optimizer={name="sgd",lr=1e6}', 3, ("server_optimizer sgd (lr = 1000000.0)",)),
    ('strategy={name="odd_plugins:RaisesCombining"}', 4, ("odd_plugins:RaisesCombining, combine: KeyError: 'what",)),
    ('strategy={name="odd_plugins:ShortSum"}', 4, ("combine returned float64 (1,)",)),
    ('strategy={name="odd_plugins:NoWeight"}', 4, ("weight(40) returned 0",)),
    ('cohort={name="odd_plugins:DrawsStrangers"}', 4, ("draw returned [99]",)),
    ('cohort={name="odd_plugins:RaisesDrawing"}', 4, ("draw: KeyError",)),
    ('server_optimizer={name="odd_plugins:RaisesStepping"}', 4, ("step: KeyError",)),
    ('server_optimizer={name="odd_plugins:StepsToNan"}', 3, ("round 1: the global model is no longer finite",)),
    ('sinks=[{name="odd_plugins:RaisesWriting"}]', 4, ("write: KeyError",)),
    ('sinks=[{name="odd_plugins:RaisesClosing"}]', 4, ("close: KeyError",)),
]
CHEAP = {"AssignsData", "local.lr=1e6"}


def cases(rows: Sequence[tuple[str, int, tuple[str, ...]]]) -> list[object]:
    return [pytest.param(*row, id=row[0], marks=[] if row[0] in CHEAP else [whole_run]) for row in rows]


@pytest.mark.parametrize(("name", "code", "says"), cases(AT_START))
def test_before_the_first_round(
    name: str, code: int, says: tuple[str, ...], recipe: Path, even: Path, tmp_path: Path
) -> None:
    ended = train(recipe, even, tmp_path / "run", own(name))
    assert ended.code == code, ended
    assert all(part in told(ended) for part in says), ended
    assert rounds(tmp_path / "run") == []


@pytest.mark.parametrize(("setting", "code", "says"), cases(LATER))
def test_in_a_round(setting: str, code: int, says: tuple[str, ...], recipe: Path, even: Path, tmp_path: Path) -> None:
    ended = train(recipe, even, tmp_path / "run", setting, "roles.servers=2", ranks=5)
    assert ended.code == code, ended
    assert all(part in told(ended) for part in says), ended
    assert not (tmp_path / "run" / "DONE").exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("StochasticDepth", marks=whole_run),
        "NumpyProjection",
        pytest.param("NumpyWeights", marks=whole_run),
        pytest.param("AlwaysDropping", marks=whole_run),
        pytest.param("LegacySpectralNorm", marks=whole_run),
        pytest.param("ExtraState", marks=whole_run),
    ],
)
def test_random_numbers_of_every_library(name: str, recipe: Path, even: Path, tmp_path: Path) -> None:
    """The same on any number of workers, identical in a replay, and evaluated afterwards as it was in the run."""
    out = tmp_path / "run"
    first = train(recipe, even, out, own(name))
    assert first.code == 0, first
    replayed = mpirun.on_ranks(
        3, ["-m", "silofold", "replay", str(out), "--out", str(tmp_path / "again")], environment=WHERE
    )
    assert replayed.code == 0, replayed
    evaluated = mpirun.silofold("evaluate", out, "--out", tmp_path / "found.json", environment=WHERE)
    assert evaluated.code == 0, evaluated
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["global_model"]["pooled"]["accuracy"] == rounds(out)[-1]["accuracy"]


@pytest.mark.parametrize(
    ("kind", "setting", "code", "says"),
    [
        pytest.param("central", own("DivergesLater"), 3, "the loss became nan; so in 3 rounds in a row"),
        pytest.param("local", own("DivergesLater"), 3, "local.lr = 0.05", marks=whole_run),
        pytest.param("central", own("RaisesLater"), 4, "SystemExit", marks=whole_run),
        pytest.param("local", own("AssignsData"), 4, "1.weight", marks=whole_run),
        pytest.param("central", own("UnseededProjection"), 4, "projection", marks=whole_run),
        pytest.param("local", own("NotANumberLater"), 3, "no finite logit", marks=whole_run),
    ],
)
def test_a_baseline_that_did_not_train(
    kind: str, setting: str, code: int, says: str, recipe: Path, even: Path, tmp_path: Path
) -> None:
    sets = [part for one in (*QUICK, setting) for part in ("--set", one)]
    out = tmp_path / "run"
    for _ in range(2):  # the same command does not take it for finished
        ended = mpirun.silofold("baseline", kind, recipe, "--data", even, "--out", out, *sets, environment=WHERE)
        assert ended.code == code, ended
        assert says in told(ended)
        assert not (out / "DONE").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("RaisesOnOneSilo", r"silo_0001: KeyboardInterrupt: no such \x1b[31m key ("),
        pytest.param("NotANumberOnOneSilo", "silo_0001: no finite logit for 11 of 11 images", marks=whole_run),
    ],
)
def test_a_silo_that_cannot_be_evaluated_is_told_of(name: str, says: str, recipe: Path, even: Path, tmp_path: Path) -> None:
    """In the run's last line, by status and by verify; the warnings of many rounds are one."""
    out = tmp_path / "run"
    ended = train(recipe, even, out, own(name))
    story = f"1 of 3 silos was not fully evaluated: {says}"
    assert ended.code == 0, ended
    assert story in ended.out.splitlines()[-1], ended
    assert ended.err.count("cannot be evaluated") <= 1, ended
    for command in ("status", "verify"):
        told_again = mpirun.silofold(command, out, environment=WHERE)
        assert (told_again.code, story in told_again.out) == (0, True), told_again


@whole_run
@pytest.mark.parametrize(
    "setting", [later("segfault"), own('Raises",what="segfault",when="train')], ids=["later", "at start"]
)
def test_a_model_that_ends_its_process(setting: str, recipe: Path, even: Path, tmp_path: Path) -> None:
    """A lost rank; where it was is told, and no library's dump."""
    sets = [part for one in (*QUICK, setting) for part in ("--set", one)]
    out = tmp_path / "run"
    ended = mpirun.silofold(
        "launch", recipe, "--data", even, "--out", out, "--servers", 1, "--workers", 2, *sets, environment=WHERE
    )
    assert ended.code == 75, ended
    assert re.search(r"worker_\d: Segmentation fault \(.*odd_models.py:\d+ in (forward|_raise)\)", ended.err), ended
    assert "Process received signal" not in ended.err


@whole_run
def test_a_model_that_warns_at_every_call_is_heard_once(recipe: Path, even: Path, tmp_path: Path) -> None:
    """By a worker each, where it is sound in the start check."""
    ended = train(recipe, even, tmp_path / "run", later("warning"))
    assert ended.code == 0, ended
    assert 1 <= ended.err.count("UserWarning: the mean is") <= 2, ended
    assert "\x1b" not in ended.err


@whole_run
def test_an_exit_code_that_no_rank_has_told_is_a_lost_rank(recipe: Path, even: Path, tmp_path: Path) -> None:
    sets = [part for one in (*QUICK, own("LeavesLater")) for part in ("--set", one)]
    out = tmp_path / "run"
    ended = mpirun.silofold(
        "launch", recipe, "--data", even, "--out", out, "--servers", 1, "--workers", 2, *sets, environment=WHERE
    )
    assert ended.code == 75, ended
    assert "a rank was lost" in ended.err


@whole_run
def test_a_run_at_chance_level_says_so(recipe: Path, even: Path, tmp_path: Path) -> None:
    lost = train(recipe, even, tmp_path / "run", "local.lr=1e-6", "rounds.count=1")
    assert lost.code == 0, lost
    assert "which cannot be told from always answering the commonest class" in lost.out.splitlines()[-1]
