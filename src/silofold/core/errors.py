"""The exception tree: every fault that silofold itself reports.

::

    SilofoldError
    ├── ConfigError          settings: key, value, what was expected
    ├── SchemaError          a silo file, a picture, a folder of data
    ├── TopologyError        ranks, launcher, silos against workers
    ├── PluginError          a name that is no plug-in, or a plug-in that breaks its protocol
    ├── RunFolderError       the folder of a run: in use, finished, of other settings
    ├── CheckpointError      no checkpoint that can be trusted
    ├── ReplayError          a replay gave other bits than the record
    ├── DivergedError        updates or losses are not finite or out of range
    ├── UserCodeError        code of the user's own raised, or returned what it must not
    └── RequeueError         the job ended early and can be resumed as it is

A message says what was found, what was expected, and which file, key or rank. Each error names its id, and
`silofold.core.error_table` says how a run ends by it. This module owns the tree and knows nothing else of the program.
"""

from __future__ import annotations

from silofold.core.error_table import ERRORS


class SilofoldError(Exception):
    """Root of all faults that silofold reports in one line.

    Parameters
    ----------
    id
        Key of `ERRORS`.
    message
        What was found, what was expected, and where.

    Attributes
    ----------
    told_elsewhere : bool
        Whether another rank tells it.
    """

    told_elsewhere = False

    def __init__(self, id: str, message: str) -> None:  # noqa: A002  (the word that users read)
        super().__init__(id, message)
        self.id, self.message = id, message

    def __str__(self) -> str:
        return self.message

    @property
    def exit_code(self) -> int:
        """Exit code of a process that ends by it."""
        return ERRORS[self.id].ending.code


class ConfigError(SilofoldError):
    """A setting is unknown, of the wrong type, out of range or inconsistent."""


class SchemaError(SilofoldError):
    """Data on disk is not what the silo format or a data tool expects."""


class TopologyError(SilofoldError):
    """Ranks, roles and silos do not fit together, or the launcher is the wrong one."""


class PluginError(SilofoldError):
    """A plug-in cannot be found, imported or built."""


class RunFolderError(SilofoldError):
    """The run folder cannot be used for this run."""


class CheckpointError(SilofoldError):
    """No checkpoint can be trusted, or one does not fit the run."""


class ReplayError(SilofoldError):
    """A replay gave other bits than the recorded run."""


class DivergedError(SilofoldError):
    """Updates or losses are not finite or out of range."""


class UserCodeError(SilofoldError):
    """Code of the user's own raised, or returned what it must not."""


class RequeueError(SilofoldError):
    """The job ended before its last round, and resuming goes on from the last checkpoint."""
