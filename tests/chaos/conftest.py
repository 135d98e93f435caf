"""The table of results at the end of the chaos tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.judge import Outcome

PROPERTY = "outcome of a fault"


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str, Outcome], None]:
    """Note a result for the table, in whichever process the test runs."""

    def note(name: str, found: Outcome) -> None:
        resumed = "yes" if found.resumed else "no"
        cells = [name, found.code, resumed, found.rounds, found.void, found.lost, f"{found.seconds:.1f}", found.replay]
        request.node.user_properties.append((PROPERTY, f"| {' | '.join(map(str, cells))} |"))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table as it stands in the docs."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    lines = [text for one in reports for name, text in one.user_properties if name == PROPERTY and one.when == "call"]
    if lines:
        head = (
            "| fault | exit code | resumed | rounds | void | updates lost | seconds | replay |",
            "|---|---|---|---|---|---|---|---|",
        )
        for line in ("", *head, *lines):
            terminalreporter.write_line(line)
