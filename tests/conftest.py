from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tiny_silos import RECIPE, pack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered of silo files out of the cache of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_search_path() -> Iterator[None]:
    """Take back what a command that runs in this process says of the Python processes that it starts."""
    before, path = os.environ.get("PYTHONSAFEPATH"), list(sys.path)
    yield
    sys.path[:] = path
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small silos of different sizes."""
    return pack(tmp_path_factory.mktemp("tiny") / "silos")


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short rounds."""
    path = tmp_path_factory.mktemp("recipe") / "run.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def femnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of the real writers."""
    source = os.environ.get("SILOFOLD_FEMNIST")
    if not source:
        pytest.skip("SILOFOLD_FEMNIST names no folder with writers_img.zip: real FEMNIST is not at hand")
    folder = tmp_path_factory.mktemp("femnist")
    with zipfile.ZipFile(Path(source) / "writers_img.zip") as archive:
        archive.extractall(folder)
    return folder / "client_img"
