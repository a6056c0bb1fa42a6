"""Every input that a fuzzer found worth keeping, through the target's own function."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
INPUTS = [
    pytest.param(name, path, id=f"{name}-{path.name}")
    for name in TARGETS
    for path in sorted((HERE / "corpus" / name).iterdir())
]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


@pytest.mark.parametrize(("name", "path"), INPUTS)
def test_input(name, path):
    importlib.import_module(f"fuzz_{name}").one_input(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_is_there(name):
    assert list((HERE / "corpus" / name).iterdir())


def test_no_target_needs_a_fuzzer():
    assert "atheris" not in sys.modules
