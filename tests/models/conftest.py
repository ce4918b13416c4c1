"""Loads each of the two models once for all tests here."""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # `models` is a folder of the repository, not an installed package

from models.minilm.convert import convert  # noqa: E402
from models.tiny.examine import load  # noqa: E402


@pytest.fixture
def listener() -> Iterator[Path]:
    """A path, short enough for a socket, for an engine's HTTP listener."""
    with TemporaryDirectory() as folder:
        yield Path(folder) / "http.sock"


@pytest.fixture(scope="session")
def tiny() -> Iterator[Any]:
    """The tiny model, loaded."""
    with TemporaryDirectory() as folder:
        yield load(ROOT / "models/tiny/tiny.gguf", Path(folder) / "http.sock")


@pytest.fixture(scope="session")
def minilm() -> Iterator[Path]:
    """The folder of the converted sentence model; 90 MB, gone afterwards."""
    with TemporaryDirectory() as folder:
        yield convert(Path(folder) / "minilm")
