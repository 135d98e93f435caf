"""Which parameters have had no gradient yet: weight decay leaves them alone, as torch.optim does."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


class Unreached:
    """Watches the backward passes of a model until every parameter has had its gradient.

    A gradient of zeros is one: what is looked for are parameters that the loss does not depend on. torch tells by hooks,
    which are gone after the first step wherever all parameters are in use.

    Parameters
    ----------
    parameters
        Trainable; `grad` of each is a view of the model's flat gradient.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._reached: set[int] = set()
        self._waiting: dict[int, tuple[torch.nn.Parameter, torch.utils.hooks.RemovableHandle]] = {}
        for index, parameter in enumerate(parameters):
            hook = parameter.register_post_accumulate_grad_hook(functools.partial(self._note, index))  # type: ignore[no-untyped-call]
            self._waiting[index] = parameter, hook

    def still(self) -> None:
        """Set the gradients of those that no backward pass has reached back to zero: weight decay was added to them."""
        if self._reached:
            for index in self._reached:
                self._waiting.pop(index)[1].remove()
            self._reached.clear()
        for parameter, _ in self._waiting.values():
            if parameter.grad is not None:
                parameter.grad.zero_()

    def leave(self) -> None:
        """Take all hooks away: what has not been reached by now stays so."""
        for _, hook in self._waiting.values():
            hook.remove()

    def _note(self, index: int, _: torch.Tensor) -> None:
        # the hook itself stays until the pass is over: torch goes through a parameter's hooks while it calls them
        self._reached.add(index)
