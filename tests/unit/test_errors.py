from __future__ import annotations

import pytest

from silofold import errors


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (errors.ConfigError, 2),
        (errors.SchemaError, 2),
        (errors.TopologyError, 2),
        (errors.PluginError, 2),
        (errors.RunFolderError, 2),
        (errors.CheckpointError, 2),
        (errors.ReplayError, 1),
        (errors.RequeueError, 75),
    ],
)
def test_exit_codes_are_frozen(fault: type[errors.SilofoldError], code: int) -> None:
    assert fault.exit_code == code
    assert issubclass(fault, errors.SilofoldError)
    assert fault.__name__ in (errors.__doc__ or "")
