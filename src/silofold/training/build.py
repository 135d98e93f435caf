"""Make the model that the settings name, from the seed, and try it once before a run starts on it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from silofold import config, plugins, seeds
from silofold.errors import ConfigError, PluginError
from silofold.training.flat import FlatModel

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        The run's seed: the same seed gives the same initial model.
    device
        Where the model lives.
    compiled
        Whether torch compiles it; it is tried in this form.

    Raises
    ------
    ConfigError
        A key of the table is unknown or out of range.
    PluginError
        The model cannot be built, or does not map images to one logit a class.
    """
    plugin = plugins.find("model", table["name"])
    if not (isinstance(plugin, type) and issubclass(plugin, torch.nn.Module)):
        raise PluginError(
            "model-class", f"model {table['name']}: found {plugin!r}, expected a class derived from torch.nn.Module"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(seed, "model"))
        try:
            module = _call(plugin, table, len(classes), image_shape)
            if compiled:
                module.compile(dynamic=False)
            _try(module, len(classes), image_shape)
        except (TypeError, ValueError, RuntimeError) as fault:
            raise PluginError(
                "model-build", f"model {table['name']}: {type(fault).__name__}: {(str(fault).splitlines() or [''])[0]}"
            ) from fault
    return FlatModel(module, device)


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
        settings = config.convert(table, plugin.Settings, f"model {table['name']}", "model")
        return plugin(settings, classes, shape)
    parameters = inspect.signature(plugin).parameters
    given = {key: value for key, value in table.items() if key != "name"}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in given:
            if key not in parameters:
                raise ConfigError("settings-key", f"unknown key model.{key}; {config.nearest(key, list(parameters))}")
    known = {"classes": classes, "image_shape": shape}
    return plugin(**{key: value for key, value in known.items() if key in parameters} | given)


def _try(module: torch.nn.Module, classes: int, shape: tuple[int, ...]) -> None:
    channels = shape[2] if len(shape) == 3 else 1
    module.eval()
    with torch.inference_mode():
        found = tuple(module(torch.zeros(2, channels, *shape[:2])).shape)
    if found != (2, classes):
        raise PluginError(
            "model-output", f"{type(module).__name__} maps 2 images to {found}, expected (2, {classes}): one logit a class"
        )
