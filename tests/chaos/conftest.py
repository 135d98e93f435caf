"""The table of results at the end of the chaos tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.judge import Outcome

RESULTS: list[tuple[str, Outcome]] = []


@pytest.fixture
def chaos_table() -> list[tuple[str, Outcome]]:
    """Results so far."""
    return RESULTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table as it stands in the docs."""
    if not RESULTS:
        return
    terminalreporter.write_line("")
    terminalreporter.write_line("| fault | exit code | resumed | rounds | void | updates lost | seconds | replay |")
    terminalreporter.write_line("|---|---|---|---|---|---|---|---|")
    for name, found in RESULTS:
        resumed = "yes" if found.resumed else "no"
        cells = (name, found.code, resumed, found.rounds, found.void, found.lost, f"{found.seconds:.1f}", found.replay)
        terminalreporter.write_line(f"| {' | '.join(map(str, cells))} |")
