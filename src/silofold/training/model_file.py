"""Whether the file of a model's state dict can be written and read back, and holds what it held before."""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import TYPE_CHECKING

import torch

from silofold.core.errors import UserCodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from silofold.training.flat import FlatModel


def look(model: FlatModel, name: str) -> list[tuple[str, str]]:
    """See that the state dict can be written and read back; without its tensors, since it rests on no size.

    Parameters
    ----------
    model
        Before its first round, and after its last: what is no tensor may have changed.
    name
        Of the model, as the settings have it.

    Returns
    -------
    list of tuple
        Name and form of each entry.

    Raises
    ------
    UserCodeError
        It cannot, it holds less than the model, or other entries than before the first round.
    """
    model.check_places()
    state = model.module.state_dict()
    small = {
        key: value.new_empty(0, device="cpu") if isinstance(value, torch.Tensor) else value for key, value in state.items()
    }
    with _readable(name):
        file = io.BytesIO()
        torch.save(small, file)
        file.seek(0)
        back = torch.load(file, weights_only=True)
    if list(back) != list(small):
        raise UserCodeError("model-file", f"model {name}: its state dict reads back with other entries")
    held, trained = sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor)), len(model.gradient)
    if held < trained:
        raise UserCodeError(
            "model-file",
            f"model {name}: its state dict holds {held:,} numbers, and {trained:,} are trained: the saved model would lack "
            "some; expected all parameters under their own names",
        )
    entries = [(key, _form(value)) for key, value in state.items()]
    if model.file and entries != model.file:
        others = sorted({key for key, _ in {*entries} ^ {*model.file}})
        raise UserCodeError(
            "model-file",
            f"model {name}: its state dict has come to hold other entries while it ran: "
            f"{', '.join(others[:5]) or 'in another order'}; expected those of the start: silofold evaluate knows no others",
        )
    return entries


def _form(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError) as fault:
        words = next((line.strip() for line in str(fault).splitlines() if "GLOBAL" in line or "pickle" in line), str(fault))
        raise UserCodeError(
            "model-file",
            f"model {name}: its state dict cannot be written and read back with weights_only=True: {words[:200]}; expected "
            "tensors and plain values alone (get_extra_state)",
        ) from fault
