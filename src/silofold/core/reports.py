"""What a round came to in a silo: trained, tested, kept, and why not."""

from __future__ import annotations

import enum

import msgspec


class Cause(enum.Enum):
    """Why a silo's update does not count: what follows from it is decided by this, and never by the words beside it."""

    NONE = ""
    LATE = "late"
    """No report, or no time left."""
    DEAD = "dead"
    """The worker that was to train it died."""
    ABSENT = "absent"
    """The global model did not arrive."""
    DATA = "data"
    """The silo's file cannot be read."""
    MEMORY = "memory"
    """The machine's memory was full."""
    RAISED = "raised"
    """The model raised."""
    DIVERGED = "diverged"
    """Loss or update is not finite, or out of range."""
    FALSE = "false"
    """A report that cannot be true, or one that came in one sum with such a report."""

    @property
    def of_the_silo(self) -> bool:
        """Whether the silo's own data or model is at fault, and not the rank it runs on."""
        return self in {Cause.DATA, Cause.MEMORY, Cause.RAISED, Cause.DIVERGED}


class Score(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Evaluation of one silo's test split."""

    silo: int
    examples: int
    correct: int
    loss_sum: float
    unanswered: int = 0
    """Images for which the model gave no finite logit."""

    @property
    def lacks(self) -> str:
        """Say on which images there is no evaluation; empty if there is one on all."""
        count = f"no finite logit for {self.unanswered} of {self.examples} images, which count as wrong"
        return count if self.unanswered else ""


class Unscored(msgspec.Struct, frozen=True, array_like=True):
    """A silo whose test split could not be evaluated."""

    silo: int
    cause: Cause
    reason: str


class Report(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a silo returns before its update moves."""

    silo: int
    examples: int
    """Training examples of the silo: the weight of its update."""
    steps: int
    seen: int
    """Examples that the steps covered; `loss_sum` and `correct` are over these."""
    loss_sum: float
    correct: int
    seconds: float
    finished: bool
    elements: int
    """Length of the update that it would add."""
    reason: str = ""
    """Why it is not finished."""
    cause: Cause = Cause.NONE
    """The same as a word that decisions rest on."""
    raised: str = ""
    """Class and place of the exception that the model raised: the same exception again has the same."""
    state: str = ""
    """Digest of the state that the silo keeps if its update counts; empty where it keeps none."""


class StateOf(msgspec.Struct, frozen=True, array_like=True):
    """What a silo keeps: the round that it is of, and the sha256 of what it holds."""

    round: int
    sha256: str
