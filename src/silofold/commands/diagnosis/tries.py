"""What is tried in processes of its own: the model, and a few ranks that look at MPI and each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from silofold.commands.diagnosis.findings import Finding, fail, ok
from silofold.commands.launching import launcher, mpi_session, relay
from silofold.core.error_table import ERRORS
from silofold.core.errors import SilofoldError
from silofold.data import silo as silos
from silofold.training import trial

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from silofold import config

RANKS_START_WITHIN = 120.0
"""Seconds."""


def judge_model(settings: config.Settings) -> Iterator[Finding]:
    """Build the model, in a process of its own: this one stays without torch."""
    try:
        data = silos.read_manifest(Path(settings.data.folder)) if settings.data.folder else None
    except SilofoldError:
        data = None  # told already
    asked = trial.Question(
        model=settings.model, seed=settings.seed, classes=list(data.classes) if data else [],
        shape=list(data.image_shape) if data else [],
    )  # fmt: skip
    name, command = settings.model["name"], [sys.executable, "-P", "-m", "silofold.training.trial"]
    try:
        answer = subprocess.run(
            command, input=msgspec.json.encode(asked), capture_output=True, timeout=RANKS_START_WITHIN, check=False,
            env=dict(os.environ) | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        found = msgspec.json.decode(answer.stdout.splitlines()[-1], type=trial.Answer) if answer.stdout else None
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as fault:
        yield fail(f"model {name!r} could not be tried: {fault}", "run it in a small script of your own first")
        return
    if found is None:
        story = relay.essence(answer.stderr.decode(errors="replace"))
        yield fail(
            f"model {name!r} ended the process that tried it (exit code {answer.returncode}): {story}", "mend the model"
        )
    elif found.fault:
        yield fail(found.fault, ERRORS[found.id].remedy if found.id else "mend the model")
    else:
        yield ok(
            f"model {name!r}: {found.parameters:,} parameters" if found.parameters else f"model {name!r} can be imported"
        )


def try_ranks(start: Sequence[str], settings: config.Settings, options: argparse.Namespace, ranks: int) -> Iterator[Finding]:
    """Start ranks and take over what they find."""
    given = [str(options.recipe)] if options.recipe else []
    for name, value in (("--data", options.data), ("--out", options.out)):
        given += [name, str(value)] if value else []
    given += [part for override in options.set for part in ("--set", override)]
    command = [*start, "-n", str(ranks), sys.executable, "-P", "-m", "silofold", "doctor", "--json", *given]
    remedy = "mend first what is said above; if that is nothing: OMPI_MCA_btl_tcp_if_include=<interface> chooses a network"
    with mpi_session.session() as place:
        environment = place | launcher.environment(settings.local.threads, ranks)
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except OSError as fault:
            yield fail(f"{command[0]}: cannot be started: {fault.strerror}", f"look at {launcher.LAUNCHER}, or leave it out")
            return
        with process:
            try:
                out, err = process.communicate(timeout=RANKS_START_WITHIN)
            except subprocess.TimeoutExpired:
                process.terminate()
                out, err = process.communicate()
                yield fail(f"{ranks} ranks did not meet within {RANKS_START_WITHIN:.0f} s", remedy)
                return
    answer = next((line for line in reversed(out.splitlines()) if line.startswith("[")), "")
    if not answer:
        message = relay.essence(err) or "it said nothing"
        yield fail(f"{ranks} ranks could not be started (exit code {process.returncode}): {message}", remedy)
        return
    yield from msgspec.json.decode(answer, type=list[Finding])
