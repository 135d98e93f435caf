"""The exception tree: every fault that silofold itself reports.

::

    SilofoldError            exit code 2: the input must change before another try
    ├── ConfigError          settings: key, value, what was expected
    ├── SchemaError          a silo file, a picture, a folder of data
    ├── TopologyError        ranks, launcher, silos against workers
    ├── PluginError          a name that is no plug-in, or a plug-in that breaks its protocol
    ├── RunFolderError       the folder of a run: in use, finished, of other settings
    ├── CheckpointError      no checkpoint that can be trusted
    ├── ReplayError          exit code 1: a replay gave other bits than the record
    └── RequeueError         exit code 75: the job ended early and can be resumed as it is

A message says what was found, what was expected, and which file, key or rank.
This module owns the tree and knows nothing else of the program.
"""

from __future__ import annotations

from typing import ClassVar


class SilofoldError(Exception):
    """Root of all faults that silofold reports in one line."""

    exit_code: ClassVar[int] = 2


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

    exit_code: ClassVar[int] = 1


class RequeueError(SilofoldError):
    """The job ended before its last round, and resuming goes on from the last checkpoint."""

    exit_code: ClassVar[int] = 75
