"""Name → plug-in: the only dynamic import of the program.

A short name is a module of the plug-in's folder (``mean`` → ``silofold.aggregation.strategies.mean``) whose attribute
``plugin`` is the class. ``package.module:Class`` is a class of the user's own, looked for as `silofold.core.modules` says:
on PYTHONPATH, in the environment, and last in the current folder, by every command.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from silofold import config
from silofold.core import conversion
from silofold.core.errors import PluginError, UserCodeError
from silofold.core.own_plugins import GUARDS
from silofold.core.user_code import calling, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

Kind: TypeAlias = Literal["model", "cohort", "strategy", "server_optimizer", "sink"]
FOLDERS: dict[Kind, str] = {
    "model": "silofold.training.models",
    "cohort": "silofold.aggregation.cohorts",
    "strategy": "silofold.aggregation.strategies",
    "server_optimizer": "silofold.aggregation.server_optimizers",
    "sink": "silofold.record.sinks",
}
METHODS: dict[Kind, tuple[str, ...]] = {
    "cohort": ("draw",),
    "strategy": ("weight", "combine"),
    "server_optimizer": ("start", "step"),
    "sink": ("open", "write", "close"),
}
"""What a class of each kind must offer; of a model torch knows more."""
_MEAN: tuple[Kind, str] = ("strategy", 'name = "mean"')
_MEDIAN: tuple[Kind, str] = ("strategy", 'name = "median"')
ELSEWHERE: dict[str, tuple[Kind, str]] = {
    **dict.fromkeys(("fedavg", "fedsgd", "faulttolerantfedavg", "average"), _MEAN),
    **dict.fromkeys(
        ("fedmedian", "krum", "multikrum", "bulyan", "trimmedmean", "fedtrimmedavg", "geometricmedian"), _MEDIAN
    ),
    **{
        f"{head}{rule}": ("server_optimizer", f'name = "adaptive", rule = "{rule}"')
        for head in ("", "fed")
        for rule in ("adam", "yogi", "adagrad")
    },
    "fedopt": ("server_optimizer", 'name = "adaptive"'),
    "fedavgm": ("server_optimizer", 'name = "sgd", momentum = 0.9'),
}
"""Names that other frameworks have, in small letters alone, and what comes nearest here."""
LONGEST = 200
"""Letters that a name may have."""


def names(kind: Kind) -> list[str]:
    """List the plug-ins of a kind that come with silofold, without importing them."""
    spec = importlib.util.find_spec(FOLDERS[kind])
    places = spec.submodule_search_locations if spec else None
    return sorted(module.name for module in pkgutil.iter_modules(places))


def check_name(kind: Kind, name: str) -> None:
    """Look at the form of a name and at where its module lies, without importing anything.

    Raises
    ------
    PluginError
        It is no name of a plug-in of ours, and no ``package.module:Class`` of an installed or own module.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in names(kind):
            raise PluginError("plugin-unknown", f"{kind} {name[:LONGEST]!r} is unknown; {_meant(kind, name)}")
        return
    if len(name) > LONGEST or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise PluginError("plugin-name", f"{kind} {name[:LONGEST]!r}: expected package.module:Class")
    spec = _spec(module.partition(".")[0])
    if spec is not None and _is_pythons_own(spec):
        raise PluginError(
            "plugin-name", f"{kind} {name!r}: {module} comes with Python, expected a module of your own or an installed one"
        )


def origin(name: str) -> Path | None:
    """Find the source file of ``package.module:Class`` without importing it; none where there is none to be seen."""
    places, spec = None, None
    parts = name.partition(":")[0].split(".")
    for index in range(len(parts)):
        spec = _spec(".".join(parts[: index + 1]), places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


KINDS: tuple[Kind, ...] = get_args(Kind)


def strangers(settings: config.Settings, kinds: Sequence[Kind] = KINDS) -> Iterator[str]:
    """Tell of each plug-in that does not come with silofold where it lies and what it is, before it is loaded.

    Who names it may be somebody else: the author of a run folder. The code is that of the reader's own Python path.

    Parameters
    ----------
    settings
        Those of the run.
    kinds
        The kinds that are going to be loaded.
    """
    for kind in kinds:
        for table in settings.sinks if kind == "sink" else [getattr(settings, kind)]:
            if ":" in table["name"]:
                check_name(kind, table["name"])
                path = origin(table["name"])
                if path is not None and path.is_file():
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    yield f"loading {kind} {table['name']} from {path}, sha256 {digest[:16]}…"


def find(kind: Kind, name: str) -> Any:
    """Import a plug-in's class.

    Raises
    ------
    PluginError
        There is none of that name, its module cannot be found, or it is no class of that kind.
    UserCodeError
        A module of the user's own raised while it was imported.
    """
    check_name(kind, name)
    module, colon, attribute = name.partition(":")
    if not colon:
        module, attribute = f"{FOLDERS[kind]}.{name}", "plugin"
    found = _imported(kind, name, module, own=bool(colon))
    with _called(f"{kind} {name}"):  # a module may answer for its attributes itself
        if not hasattr(found, attribute):
            place = getattr(found, "__file__", None) or "built into Python"
            raise PluginError("plugin-unknown", f"{kind} {name!r}: module {module} ({place}) has no {attribute}")
        plugin = getattr(found, attribute)
    _check_kind(kind, name, plugin)
    return plugin


def _imported(kind: Kind, name: str, module: str, *, own: bool) -> Any:
    """Import a plug-in's module; one that is not there is told apart from one that breaks while it is imported."""
    try:
        with _called(f"{kind} {name}: importing {module}"):
            return importlib.import_module(module)
    except UserCodeError as broken:
        fault = broken.__cause__
        if not own and isinstance(fault, ImportError):
            hint = f"pip install 'silofold[{name}]'"
            raise PluginError("plugin-import", f"{kind} {name!r}: {fault}; {hint}") from fault
        if isinstance(fault, ModuleNotFoundError) and fault.name and f"{module}.".startswith(f"{fault.name}."):
            raise PluginError(
                "plugin-import", f"{kind} {name!r}: {fault}; is its folder on PYTHONPATH, or the current one?"
            ) from fault
        if not module or module.startswith(".") or "\0" in module:
            raise PluginError("plugin-name", f"{kind} {name!r}: expected package.module:Class") from None
        raise


def _called(what: str) -> AbstractContextManager[None]:
    return calling(lambda fault: UserCodeError("plugin-raised", f"{what}: {told(fault)}"))


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
        There is no such plug-in, or it is of another kind.
    UserCodeError
        One of the user's own raised, or lacks what its kind must have.
    ConfigError
        One of its settings is unknown or out of range.
    """
    plugin = find(kind, table["name"])
    settings = conversion.convert(table, plugin.Settings, f"{kind} {table['name']}", kind)
    if ":" not in table["name"]:
        return plugin(settings)
    with _called(f"{kind} {table['name']}"):
        built = plugin(settings)
    return GUARDS[kind](kind, table["name"], built)


def _check_kind(kind: Kind, name: str, plugin: Any) -> None:
    """Refuse what is no class of the kind, before it is called."""
    if kind == "model":
        return
    settings = getattr(plugin, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, config.Section)):
        raise PluginError(
            "plugin-settings", f"{kind} {name!r}: {plugin!r} has no Settings, a struct derived from config.Section"
        )
    lacking = [method for method in METHODS[kind] if not callable(getattr(plugin, method, None))]
    if not isinstance(plugin, type) or lacking:
        raise PluginError(
            "plugin-kind", f"{kind} {name!r}: found {plugin!r}, expected a class with {', '.join(METHODS[kind])}"
        )


def _meant(kind: Kind, name: str) -> str:
    """Lead from a name that other frameworks have, or from a misspelt one, to the right one."""
    nearest = ELSEWHERE.get("".join(letter for letter in name.lower() if letter.isalnum()))
    if nearest:
        return f"what comes nearest here is {nearest[0]} = {{ {nearest[1]} }}"
    return f"{conversion.nearest(name[:LONGEST], names(kind))}; your own: package.module:Class"


def _spec(name: str, places: list[str] | None = None) -> importlib.machinery.ModuleSpec | None:
    """Find a module without importing it or, as ``importlib.util.find_spec`` would, its package."""
    try:
        return importlib.util.find_spec(name) if places is None else importlib.machinery.PathFinder.find_spec(name, places)
    except (ImportError, ValueError):  # a module that is loaded and has no spec, like __main__
        return None


def _is_pythons_own(spec: importlib.machinery.ModuleSpec) -> bool:
    if not spec.has_location or not spec.origin:
        return spec.submodule_search_locations is None  # built in or frozen; a package without __init__ is somebody's own
    where = Path(spec.origin)
    homes = [Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib")]
    return any(where.is_relative_to(home) for home in homes) and "site-packages" not in where.parts
