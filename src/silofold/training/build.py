"""Make the model that the settings name, from the seed, and call it once."""

from __future__ import annotations

import inspect
import itertools
from typing import TYPE_CHECKING

import torch

from silofold.core import conversion, plugins, seeds
from silofold.core.errors import ConfigError, PluginError, SilofoldError, UserCodeError
from silofold.core.user_code import calling, lacks_memory, told
from silofold.training.flat import FlatModel
from silofold.training.tasks.classification import Classification

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from silofold import config


def build(
    table: config.Table,
    classes: Sequence[str],
    image_shape: tuple[int, ...],
    seed: int,
    device: torch.device,
    *,
    compiled: bool = False,
) -> FlatModel:
    """Build the run's model with its initial parameters.

    A plug-in with ``Settings`` is called as ``plugin(settings, classes, image_shape)``. Any other ``torch.nn.Module`` is
    called with the keys of the table as keyword arguments; if its signature has ``classes`` or ``image_shape`` and the
    table does not give them, they come from the data.

    Parameters
    ----------
    table
        ``settings.model``.
    classes
        Class names; their number is what the model must put out.
    image_shape
        (H, W) or (H, W, C).
    seed
        The run's seed: the same seed gives the same initial model, from whichever of the global generators of torch, numpy
        and Python it draws.
    device
        Where the model lives.
    compiled
        Whether torch compiles it; it is tried in this form.

    Raises
    ------
    ConfigError
        A key of the table is unknown, missing or out of range.
    PluginError
        There is no such model, or one of ours does not fit the images.
    UserCodeError
        A model of the user's own raised, or does not map images to one logit a class.
    """
    name = table["name"]
    plugin = plugins.find("model", name)
    if not (isinstance(plugin, type) and issubclass(plugin, torch.nn.Module)):
        raise PluginError("model-class", f"model {name}: found {plugin!r}, expected a class derived from torch.nn.Module")
    drawn = seeds.torch_seed(seed, "model")
    with torch.random.fork_rng(devices=[]), seeds.libraries_kept(), building(name):
        torch.manual_seed(drawn)
        seeds.seed_libraries(drawn)
        module = _call(plugin, table, len(classes), image_shape)
        if compiled:
            module.compile(dynamic=False)
        _try(module, len(classes), image_shape)
        _refuse_shared_memory(module, name)
        return FlatModel(module, device, Classification(len(classes)))


def building(name: str) -> AbstractContextManager[None]:
    """Build a model of this name: what goes wrong in it becomes one line, as in `running`."""
    return calling(lambda fault: _not_its_fault(name, fault) or UserCodeError("model-build", f"model {name}: {told(fault)}"))


def running(name: str) -> AbstractContextManager[None]:
    """Train or evaluate a model of this name: what goes wrong in one of the user's own is its fault.

    Raises
    ------
    ConfigError
        The memory is full.
    UserCodeError
        The model raised something else.
    PluginError
        One of ours did: it does not fit the images.
    """
    return calling(
        lambda fault: _not_its_fault(name, fault) or UserCodeError("model-raised", f"model {name}: {told(fault)}")
    )


def _not_its_fault(name: str, fault: BaseException) -> SilofoldError | None:
    if lacks_memory(fault):
        return ConfigError("memory-full", f"model {name}: {told(fault)}; fewer workers, or a smaller batch")
    if ":" not in name:
        if not isinstance(fault, TypeError | ValueError | RuntimeError):  # a mistake of ours, and no refusal of torch's
            raise fault
        return PluginError("model-fit", f"model {name}: {told(fault)}")
    return None


def weigh(table: config.Table, classes: int, image_shape: tuple[int, ...]) -> int:
    """Count the elements of a model of silofold without taking memory for them; 0 for a model of the user's own.

    Raises
    ------
    ConfigError, PluginError
        The model cannot be built so.
    """
    if ":" in table["name"]:
        return 0
    with torch.device("meta"):
        module = _call(plugins.find("model", table["name"]), table, classes, image_shape)
    floats = (value for value in (*module.parameters(), *module.buffers()) if value.is_floating_point())
    return sum(value.numel() for value in floats)


def _call(plugin: type[torch.nn.Module], table: config.Table, classes: int, shape: tuple[int, ...]) -> torch.nn.Module:
    if hasattr(plugin, "Settings"):
        settings = conversion.convert(table, plugin.Settings, f"model {table['name']}", "model")
        return plugin(settings, classes, shape)
    parameters = inspect.signature(plugin).parameters
    given = {key: value for key, value in table.items() if key != "name"}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in given:
            if key not in parameters:
                raise ConfigError("settings-key", f"unknown key model.{key}; {conversion.nearest(key, list(parameters))}")
    known = {"classes": classes, "image_shape": shape}
    handed = {key: value for key, value in known.items() if key in parameters} | given
    for key, parameter in parameters.items():
        named = parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
        if named and parameter.default is parameter.empty and key not in handed:
            raise ConfigError("settings-key", f"model.{key} is missing: {table['name']} takes it and has no default for it")
    return plugin(**handed)


def _try(module: torch.nn.Module, classes: int, shape: tuple[int, ...]) -> None:
    """Call the model once: layers that find their sizes themselves (``nn.Lazy…``) get their parameters here."""
    channels = shape[2] if len(shape) == 3 else 1
    module.eval()
    before = _tensors(module)
    lazy = any(torch.nn.parameter.is_lazy(value) for value in before.values())
    # parameters that are made in inference mode could never be trained
    with torch.no_grad() if lazy else torch.inference_mode():
        logits = module(torch.zeros(2, channels, *shape[:2]))
    Classification(classes).check(module, logits, 2)
    after = _tensors(module)
    for key in after.keys() - before.keys():
        raise UserCodeError(
            "model-tensors",
            f"model {type(module).__name__}: {key} was made while it ran; expected all of them from the start, or torch's "
            "own lazy layers",
        )
    for key, value in before.items() if not lazy else ():
        if after.get(key) is not value:
            raise UserCodeError(
                "model-tensors",
                f"model {type(module).__name__}: {key} was replaced by another tensor while it ran; expected to be "
                "written in place: self.x.copy_(…), under torch.no_grad()",
            )


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _refuse_shared_memory(module: torch.nn.Module, name: str) -> None:
    """Refuse tensors that are tied by their memory: each gets a place of its own in the flat vector, which unties them."""
    tensors = _tensors(module)
    spans = sorted(
        (value.data_ptr(), value.data_ptr() + value.numel() * value.element_size(), key)
        for key, value in tensors.items() if value.numel() and value.device.type != "meta" and value.is_contiguous()
    )  # fmt: skip
    for (_, stop, one), (start, _, other) in itertools.pairwise(spans):
        if start < stop:
            raise UserCodeError(
                "model-tensors",
                f"model {name}: {one} and {other} share their memory, which the flat vector would part; expected one "
                "Parameter that both modules hold (b.weight = a.weight)",
            )
