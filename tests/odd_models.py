"""Models of users that are sound in their own program, or not, and odd for a federation; images are (1, 16, 16)."""

# mypy: disable-error-code="no-any-return, no-untyped-call, operator, arg-type, index, call-arg"

from __future__ import annotations

import builtins
import copy
import ctypes
import os
import random
import signal
import sys
import warnings
from typing import Any, Never

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

PIXELS = 256


class Plain(nn.Sequential):
    """A linear model."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(PIXELS, classes))


# --- right -----------------------------------------------------------------------------------------------------------


class Normed(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, classes))


class Tied(nn.Sequential):
    def __init__(self, classes: int) -> None:
        first, second = nn.Linear(PIXELS, PIXELS), nn.Linear(PIXELS, PIXELS)
        second.weight = first.weight
        super().__init__(nn.Flatten(), first, second, nn.Linear(PIXELS, classes))


class Frozen(Plain):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self[1].bias.requires_grad_(requires_grad=False)


class FrozenNorm(Normed):
    """Keeps its normalisation in evaluation mode, as fine-tuning does."""

    def train(self, mode: bool = True) -> Any:  # noqa: FBT001, FBT002  (torch's own signature)
        super().train(mode)
        self[1].eval()
        return self


class ComplexConstant(Plain):
    phase: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("phase", torch.exp(1j * torch.arange(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.phase.abs().mean())


class Lazy(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(classes))


class WeightNorm(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), parametrizations.weight_norm(nn.Linear(PIXELS, classes)))


class LegacyWeightNorm(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), weight_norm(nn.Linear(PIXELS, classes)))


class SpectralNorm(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(PIXELS, classes)))


class LegacySpectralNorm(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), spectral_norm(nn.Linear(PIXELS, classes)))


class Recurrent(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows.flatten_parameters()
        logits: torch.Tensor = self.head(self.rows(x.squeeze(1))[0][:, -1])
        return logits


class Dropping(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(PIXELS, classes))


class NumpyWeights(Plain):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        with torch.no_grad():
            self[1].weight.copy_(torch.from_numpy(np.random.normal(0, 0.05, (classes, PIXELS)).astype("f4")))  # noqa: NPY002


class NumpyProjection(nn.Sequential):
    """A random projection as a plain attribute, in no state dict."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Linear(32, classes))
        self.projection = torch.from_numpy(np.random.normal(0, 0.1, (PIXELS, 32)).astype("f4"))  # noqa: NPY002

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1) @ self.projection)


class StochasticDepth(nn.Sequential):
    """Draws from Python's own generator while it trains."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(PIXELS, classes), nn.Linear(classes, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self[1](self[0](x))
        second: torch.Tensor = self[2](first)
        return first if self.training and random.random() < 0.5 else second  # noqa: S311


class AlwaysDropping(Plain):
    """Draws in evaluation too, as Monte Carlo dropout does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class ExtraState(Plain):
    def get_extra_state(self) -> dict[str, float]:
        return {"temperature": 2.0}

    def set_extra_state(self, state: Any) -> None: ...


class CountsCalls(Plain):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Remembers(Plain):
    """Keeps its last features, as visualisation does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.detach().mean()
        return super().forward(x)


class Copies(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.one = Plain(classes)
        self.other = copy.deepcopy(self.one)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.one(x) + self.other(x)
        return logits


class HoldsParallel(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = nn.DataParallel(Plain(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits


class HoldsParameters(Plain):
    """A plain list of its own parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.mine, self.first = list(self.parameters()), [self[1].weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0 * self.mine[0].sum()


class HoldsScript(nn.Module):
    """A part of it is compiled by torch.jit."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.net = torch.jit.trace(Plain(classes), torch.zeros(2, 1, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits


class HoldsCircle(Plain):
    """Its notes hold themselves."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.notes: dict[str, Any] = {}
        self.notes["self"] = self.notes


# --- refused: tensors that leave the flat vector -----------------------------------------------------------------------


class AssignsData(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self[1].weight.data = torch.renorm(self[1].weight.data, p=2, dim=0, maxnorm=0.5)
        return super().forward(x)


class ReplacesParameter(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self[1].bias = nn.Parameter(self[1].bias.detach() * 0.5)
        return super().forward(x)


class ReplacesBuffer(Plain):
    mean: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = (0.9 * self.mean + 0.1 * x.detach().mean()).view(1)
        return super().forward(x - self.mean)


class ReplacesCounter(Plain):
    steps: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps = self.steps + 1
        return super().forward(x)


class DropsGradients(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.zero_grad()
        return super().forward(x)


class Unfreezes(Frozen):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self[1].bias.requires_grad_(self.training)
        return super().forward(x)


class AddsBuffer(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.register_buffer("seen", torch.ones(1))
        return super().forward(x)


class AddsLayer(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(self) == 2:
            self.append(nn.Linear(5, 5))
        return super().forward(x)


class MakesLayer(nn.Module):
    """Makes its last layer when it is called for the first time."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.first = classes, nn.Linear(PIXELS, PIXELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "last"):
            self.last = nn.Linear(PIXELS, self.classes)
        logits: torch.Tensor = self.last(self.first(x.flatten(1)))
        return logits


class TiedByMemory(nn.Sequential):
    def __init__(self, classes: int) -> None:
        first, second = nn.Linear(PIXELS, PIXELS), nn.Linear(PIXELS, PIXELS)
        second.weight.data = first.weight.data
        super().__init__(nn.Flatten(), first, second, nn.Linear(PIXELS, classes))


class HoldsView(Plain):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.row = self[1].weight.data[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.row.sum()


# --- refused: state that does not travel ---------------------------------------------------------------------------------


class PlainMean(Plain):
    """A running mean that is no buffer."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.mean = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean())
        return super().forward(x - self.mean)


class NumberMean(Plain):
    mean = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * float(x.mean())
        return super().forward(x - self.mean)


class OwnStream(Plain):
    """Draws from a generator of its own, which stands elsewhere on each worker."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.rng = np.random.default_rng(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * float(self.rng.uniform(0.5, 1.5)) if self.training else x)


class ClosureCount(Plain):
    """State in a closure, where no attribute shows it."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        count = 0

        def scale() -> float:
            nonlocal count
            count += 1
            return 1.0 + 0.1 * count

        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.scale() if self.training else x)


class FirstBatch(Plain):
    """Begins from its first batch, as ActNorm does."""

    begun = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not self.begun:
            with torch.no_grad():
                self[1].bias.fill_(float(x.mean()))
            self.begun = True
        return super().forward(x)


class MovingComplex(ComplexConstant):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.phase.mul_(1j)
        return super().forward(x)


class UnsavedMean(Plain):
    mean: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("mean", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean())
        return super().forward(x - self.mean)


class MovingExtra(ExtraState):
    steps = 0

    def get_extra_state(self) -> dict[str, float]:
        return {"steps": self.steps}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return super().forward(x)


class UnseededProjection(NumpyProjection):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.projection = torch.from_numpy(np.random.default_rng().normal(0, 0.1, (PIXELS, 32)).astype("f4"))


class UnseededWeights(Plain):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        with torch.no_grad():
            self[1].bias.add_(random.SystemRandom().random())


class Lump:
    """What no reader of tensors alone would make."""


class UnreadableExtra(ExtraState):
    def get_extra_state(self) -> Any:
        return Lump()


class UnwritableExtra(ExtraState):
    def get_extra_state(self) -> Any:
        return lambda: 0


class EmptyFile(Plain):
    def state_dict(self, *_: Any, **__: Any) -> Any:
        return {}


# --- refused: outputs ----------------------------------------------------------------------------------------------------


class TwoWhileTraining(Plain):
    def forward(self, x: torch.Tensor) -> Any:
        return (super().forward(x),) * 2 if self.training else super().forward(x)


class Named(Plain):
    def forward(self, x: torch.Tensor) -> Any:
        return {"logits": super().forward(x)}


class Nothing(Plain):
    def forward(self, x: torch.Tensor) -> Any:
        super().forward(x)


class Whole(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).round().to(torch.int64)


class Squeezed(Plain):
    """Loses the batch where it has one image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze(0)


class NotANumber(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


class Steep(Plain):
    """Its gradients are huge."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 1e36)


class Detached(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


# --- raising -------------------------------------------------------------------------------------------------------------


class Stubborn(Exception):  # noqa: N818
    """Has no words to give."""

    def __str__(self) -> str:
        raise ValueError


class Aborted(BaseException):
    """No Exception."""


def _raise(what: str) -> Never:
    if what == "RecursionError":
        _raise(what)
    if what == "ImportError":
        import no_such_library_at_all  # type: ignore[import-not-found]  # noqa: F401
    if what == "two lines":
        raise ValueError("no good\nat all")
    if what == "segfault":
        ctypes.string_at(0)
    known = {"Stubborn": Stubborn, "Aborted": Aborted}
    raise known[what] if what in known else getattr(builtins, what)("why")


class Broken(torch.autograd.Function):
    """A function whose gradient raises."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, what: str) -> torch.Tensor:
        ctx.what = what
        return x.clone()

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> Never:
        _raise(ctx.what)


class Raises(Plain):
    """Raises where it is told to: ``build``, ``evaluate``, ``train`` or ``backward``."""

    def __init__(self, classes: int, what: str = "KeyError", when: str = "build") -> None:
        super().__init__(classes)
        self.what, self.when = what, when
        if when == "build":
            _raise(what)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.when == ("train" if self.training else "evaluate"):
            _raise(self.what)
        logits = super().forward(x)
        return Broken.apply(logits, self.what) if self.when == "backward" and self.training else logits


# --- sound in the start check, and not on the silos' own images, which are darker ----------------------------------------


class RaisesLater(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.mean() < 0.3:
            raise SystemExit(0)
        return super().forward(x)


class LeavesLater(Plain):
    """Ends the process by a code that says "diverged" of a run, as a library's exit() may."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.mean() < 0.3:
            os._exit(3)
        return super().forward(x)


class NotANumberLater(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (float("nan") if not self.training and x.mean() < 0.3 else 1.0)


class RaisesEvaluatingLater(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and 0 < x.mean() < 0.3:
            raise KeyError("what")
        return super().forward(x)


class DivergesLater(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (float("nan") if self.training and x.mean() < 0.3 else 1.0)


# --- sound in the start check of three silos with 10, 11 and 12 test images, and not on the second one of them ------------


class RaisesOnOneSilo(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and len(x) == 11:
            raise KeyboardInterrupt("no such \x1b[31m key")
        return super().forward(x)


class NotANumberOnOneSilo(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (float("nan") if not self.training and len(x) == 11 else 1.0)


# --- raises what is no Exception, or adds tensors, once the silos' own images come -----------------------------------------


class Later(Plain):
    """Does something where it meets images that are darker than those of the start check: ``train`` or ``evaluate``."""

    def __init__(self, classes: int, what: str, when: str = "train") -> None:
        super().__init__(classes)
        self.what, self.when = what, when

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.when == ("train" if self.training else "evaluate") and 0 < x.mean() < 0.3:
            match self.what:
                case "buffer":
                    self.register_buffer("seen", torch.ones(3))
                case "layer":
                    self.more = nn.Linear(2, 2)
                case "entry":
                    self.register_state_dict_post_hook(_enter)
                case "file":
                    self.register_state_dict_post_hook(lambda *_: _raise("KeyError"))
                case "chdir":
                    os.chdir("/")
                case "closes":
                    sys.stdout.close()
                    sys.stderr.close()
                case "handler":
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    signal.alarm(1)
                case "segfault":
                    ctypes.string_at(0)
                case "warning":
                    warnings.warn(f"the mean is {x.mean()}\nand \x1b[31m more", stacklevel=1)
                case _:
                    _raise(self.what)
        return super(Plain, self).forward(x) if self.what != "layer" else self[1](self[0](x))


def _enter(_: nn.Module, state: dict[str, Any], *__: object) -> None:
    state["more"] = torch.ones(3)
