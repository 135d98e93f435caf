"""Plug-ins of the user's own, as the program calls them: what they raise names them, what they return is checked.

A plug-in that comes with silofold is called as it is. All else that a plug-in has is reached through its guard.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from silofold.core.errors import UserCodeError
from silofold.core.user_code import calling, is_full, told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.core.summary import Summary

NEEDS = ("sum", "each")
LARGEST_WEIGHT = 2**53
"""Sums of weights are exact up to it in every type that they pass."""


class Own:
    """A plug-in of the user's own.

    Parameters
    ----------
    kind
        What sort of plug-in.
    name
        As the settings name it.
    plugin
        What was built.

    Raises
    ------
    UserCodeError
        It lacks something that its kind must have.
    """

    def __init__(self, kind: str, name: str, plugin: Any) -> None:
        self._plugin, self._what = plugin, f"{kind} {name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plugin, name)

    def _call(self, method: str, *given: Any) -> Any:
        with calling(lambda fault: UserCodeError("plugin-raised", f"{self._what}, {method}: {told(fault)}")):
            return getattr(self._plugin, method)(*given)

    def _wrong(self, story: str) -> UserCodeError:
        return UserCodeError("plugin-protocol", f"{self._what}: {story}")


class OwnCohort(Own):
    """A cohort of the user's own."""

    def draw(self, silos: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Draw, and let through what is a choice among these silos."""
        drawn = self._call("draw", silos, rng)
        try:
            chosen = [int(silo) for silo in drawn if isinstance(silo, Integral) and not isinstance(silo, bool)]
            whole = len(chosen) == len(drawn)
        except TypeError:
            chosen, whole = [], False
        if not (chosen and whole and set(chosen) <= set(silos) and len(set(chosen)) == len(chosen)):
            raise self._wrong(
                f"draw returned {_short(drawn)}; expected some of the {len(silos)} silos that are ready, each once, "
                "as a list of their indices"
            )
        return sorted(chosen)


class OwnStrategy(Own):
    """A strategy of the user's own."""

    def __init__(self, kind: str, name: str, plugin: Any) -> None:
        super().__init__(kind, name, plugin)
        if getattr(plugin, "needs", None) not in NEEDS:
            raise self._wrong(f"needs = {_short(getattr(plugin, 'needs', None))}; expected 'sum' or 'each'")

    def weight(self, examples: int) -> int:
        """Weigh a silo."""
        weight = self._call("weight", examples)
        if not isinstance(weight, Integral) or isinstance(weight, bool) or not 1 <= int(weight) <= LARGEST_WEIGHT:
            raise self._wrong(
                f"weight({examples}) returned {_short(weight)}; expected an integer from 1 to {LARGEST_WEIGHT:,}"
            )
        return int(weight)

    def combine(self, received: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Combine a block."""
        found = self._call("combine", received, weights)
        shape = received.shape[-1:]
        fits = isinstance(found, np.ndarray) and found.shape == shape and found.dtype.kind == "f"
        if not fits:
            seen = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else _short(found)
            raise self._wrong(f"combine returned {seen}; expected a float64 array of shape {shape}")
        if not np.isfinite(found).all():
            raise self._wrong("combine returned numbers that are not finite")
        combined: NDArray[np.float64] = found
        return combined


class OwnServerOptimizer(Own):
    """A server optimizer of the user's own."""

    def start(self, size: int) -> dict[str, NDArray[np.float64]]:
        """Make the state of a shard."""
        state = self._call("start", size)
        sound = isinstance(state, dict) and all(
            isinstance(name, str) and isinstance(array, np.ndarray) and (array.shape, array.dtype) == ((size,), np.float64)
            for name, array in state.items()
        )
        if not sound:
            raise self._wrong(
                f"start returned {_short(state)}; expected a dict of float64 arrays of shape ({size},) by name"
            )
        if "model" in state:
            raise self._wrong("start returned an array named 'model', a name that checkpoints use; expected another one")
        arrays: dict[str, NDArray[np.float64]] = state
        return arrays

    def step(
        self, model: NDArray[np.float32], update: NDArray[np.float64], state: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Move a block."""
        self._call("step", model, update, state)


class OwnSink(Own):
    """A sink of the user's own; a full disk is no fault of its code."""

    def _call(self, method: str, *given: Any) -> Any:
        try:
            return super()._call(method, *given)
        except UserCodeError as fault:
            if fault.__cause__ is not None and is_full(fault.__cause__):
                raise fault.__cause__ from None
            raise

    def open(self, folder: Path, earlier: Sequence[Summary]) -> None:
        """Begin."""
        self._call("open", folder, earlier)

    def write(self, summary: Summary) -> None:
        """Take a round."""
        self._call("write", summary)

    def close(self) -> None:
        """End."""
        self._call("close")


GUARDS: dict[str, Callable[[str, str, Any], Own]] = {
    "cohort": OwnCohort,
    "strategy": OwnStrategy,
    "server_optimizer": OwnServerOptimizer,
    "sink": OwnSink,
}


def _short(value: object) -> str:
    """Show a value in few characters; its own words may raise."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (the user's class may raise when it is asked for its words)
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}…"
