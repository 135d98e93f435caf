from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from silofold.record import log

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The program's logger, as it was before in the end."""
    logger = logging.getLogger("silofold")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    yield logger
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_all_to_the_file_and_warnings_to_standard_error(
    tmp_path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "worker_3" / "worker.log"
    log.start(path, "worker_3")
    logger.debug("too small")
    logging.getLogger("silofold.roles.worker").info("round %d", 7)
    logger.warning("é is late")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines][1:] == ["worker_3 INFO round 7", "worker_3 WARNING é is late"]
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.endswith("worker_3 WARNING é is late\n")
    assert "round 7" not in seen.err


def test_a_log_that_cannot_be_begun_is_a_fault_of_the_start(logger: logging.Logger) -> None:
    del logger
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        log.start(Path("/dev/full"), "worker_3")
