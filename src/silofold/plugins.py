"""Name → plug-in: the only dynamic import of the program.

A short name is a module of the plug-in's folder (``mean`` → ``silofold.aggregation.strategies.mean``) whose attribute
``plugin`` is the class. ``package.module:Class`` is a class of the user's own.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Any, Literal, TypeAlias

from silofold import config
from silofold.errors import PluginError

Kind: TypeAlias = Literal["model", "cohort", "strategy", "server_optimizer", "sink"]
FOLDERS: dict[Kind, str] = {
    "model": "silofold.training.models",
    "cohort": "silofold.aggregation.cohorts",
    "strategy": "silofold.aggregation.strategies",
    "server_optimizer": "silofold.aggregation.server_optimizers",
    "sink": "silofold.record.sinks",
}


def names(kind: Kind) -> list[str]:
    """List the plug-ins of a kind that come with silofold, without importing them."""
    spec = importlib.util.find_spec(FOLDERS[kind])
    places = spec.submodule_search_locations if spec else None
    return sorted(module.name for module in pkgutil.iter_modules(places))


def find(kind: Kind, name: str) -> Any:
    """Import a plug-in's class.

    Raises
    ------
    PluginError
        There is none of that name, or its module cannot be imported.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in names(kind):
            raise PluginError(
                "plugin-unknown",
                f"{kind} {name!r} is unknown; {config.nearest(name, names(kind))}; your own: package.module:Class",
            )
        module, attribute = f"{FOLDERS[kind]}.{name}", "plugin"
    try:
        found = importlib.import_module(module)
    except ImportError as fault:
        hint = "is its folder on PYTHONPATH?" if colon else f"pip install 'silofold[{name}]'"
        raise PluginError("plugin-import", f"{kind} {name!r}: {fault}; {hint}") from fault
    except (ValueError, TypeError):
        raise PluginError("plugin-name", f"{kind} {name!r}: expected package.module:Class") from None
    try:
        return getattr(found, attribute)
    except AttributeError:
        raise PluginError("plugin-unknown", f"{kind} {name!r}: module {module} has no {attribute}") from None


def load(kind: Kind, table: config.Table) -> Any:
    """Build a plug-in from its table: ``plugin(Settings)``.

    Parameters
    ----------
    kind
        What sort of plug-in.
    table
        Its ``name`` and its own settings.

    Raises
    ------
    PluginError
        There is no such plug-in.
    ConfigError
        One of its settings is unknown or out of range.
    """
    plugin = find(kind, table["name"])
    if not hasattr(plugin, "Settings"):
        raise PluginError(
            "plugin-settings", f"{kind} {table['name']!r}: {plugin!r} has no Settings, a struct derived from config.Section"
        )
    return plugin(config.convert(table, plugin.Settings, f"{kind} {table['name']}", kind))
