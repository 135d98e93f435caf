"""A model with all that trains and evaluates it on one device: the same for runs, baselines and personalised models."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from silofold.core import seeds
from silofold.core.errors import SilofoldError
from silofold.core.reports import Cause, Score, Unscored
from silofold.core.user_code import is_none_of_its, lacks_memory, token, told
from silofold.training import build, model_file, scoring, shapes, start_check
from silofold.training.local import broken_off

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from silofold.config import Settings
    from silofold.training.flat import FlatModel
    from silofold.training.local import Outcome, Samples
    from silofold.training.member import Member
    from silofold.training.side_by_side import Trainer
    from silofold.training.start_check import Found

logger = logging.getLogger(__name__)


class Data(NamedTuple):
    """What the model must know of the silos.

    Attributes
    ----------
    classes
        Their names.
    shape
        (H, W) or (H, W, C) of the images.
    train, test
        Images of each silo.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    train: Sequence[int]
    test: Sequence[int]


def tried(settings: Settings, data: Data, place: torch.device, *, again: bool) -> tuple[FlatModel, Found]:
    """Build the model and take the steps of the start check; where asked, build one of the user's own a second time.

    Raises
    ------
    SilofoldError
        It cannot be built, or not be trained.
    """
    name = settings.model["name"]

    def make() -> FlatModel:
        return build.build(settings.model, data.classes, data.shape, settings.seed, place, compiled=settings.local.compile)

    model = make()
    sizes = shapes.of(data.train, data.test, settings.local)
    rest = settings.local, sizes, data.shape, len(data.classes), name
    found = start_check.check(model, *rest)
    if again and ":" in name:
        start_check.check_again(model, make(), *rest)
    return model, found


class Session:
    """Trains silos and evaluates on them; what a model of the user's own raises costs the silo alone.

    Parameters
    ----------
    trainer
        Holds the model.
    settings
        The resolved settings.
    draws
        Whether the model draws random numbers in evaluation.

    Attributes
    ----------
    model : FlatModel
        The model.
    take : callable
        Lets the model be that of a member of the group that was trained last, by its index.
    """

    def __init__(self, trainer: Trainer, settings: Settings, *, draws: bool) -> None:
        self._trainer, self.model, self.take = trainer, trainer.model, trainer.take
        self._seed, self._name, self._draws = settings.seed, settings.model["name"], draws
        self._met: set[tuple[int, str]] = set()
        """Silos and kinds of exceptions that have been warned of."""

    def train(self, group: Sequence[Member], deadline: float, first: Callable[[], object] = str) -> list[Outcome]:
        """Train silos, at most ``local.side_by_side``, and say how it went with each; see `Trainer.train`.

        Parameters
        ----------
        group
            The silos.
        deadline
            On the clock of `time.monotonic`; looked at before every step.
        first
            Is called before; what it raises counts as the model's.

        Raises
        ------
        SilofoldError
            The model has become another one: no later round would be sound.
        """
        began = time.perf_counter()
        try:
            first()
            return self._trainer.train(group, deadline)
        except SilofoldError:
            raise
        except BaseException as fault:
            if is_none_of_its(fault):
                raise
            logger.info("silos %s", [member.key[-1] for member in group], exc_info=True)
            return [broken_off(fault, time.perf_counter() - began)] * len(group)

    def momentum(self, kept: NDArray[np.float32] | None) -> torch.Tensor:
        """Make a (T,) float32 momentum on the device: what was kept, or zero."""
        blank = torch.zeros_like(self.model.gradient)
        return blank if kept is None else blank.copy_(torch.from_numpy(kept))

    def score(self, silo: int, number: int, samples: Samples) -> Score | Unscored:
        """Evaluate the model after a round on a silo's test split; a fault costs this silo's score alone.

        Raises
        ------
        SilofoldError
            The model returns what it must not, which no other silo can mend.
        """
        try:
            seed = seeds.torch_seed(self._seed, "evaluate", number, silo) if self._draws else None
            found = scoring.evaluate(self.model, samples, seed)
            return Score(silo, found.examples, int(found.sums["correct"]), found.sums["loss"], found.unanswered)
        except SilofoldError:
            raise
        except BaseException as fault:
            if is_none_of_its(fault):
                raise
            again = (silo, token(fault)) in self._met  # the end of the run tells it once more
            self._met.add((silo, token(fault)))
            logger.log(logging.INFO if again else logging.WARNING, "silo %d: cannot be evaluated: %s", silo, told(fault))
            logger.info("silo %d", silo, exc_info=True)  # the file alone
            return Unscored(silo, Cause.MEMORY if lacks_memory(fault) else Cause.RAISED, told(fault))

    def encode(self) -> bytes:
        """Encode the model as the file of a state dict, which code of the user's own may have a part in."""
        with build.running(self._name):
            model_file.look(self.model, self._name)
            return self.model.encode()
