"""What all tests of examples share."""

from __future__ import annotations

import sys

import pytest

collect_ignore_glob = ["test_*"] if sys.platform == "win32" else []  # they end programs by signals


@pytest.fixture(autouse=True)
def _environment(picows_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples import what this process imports, also under `make sanitize`."""
    for name, value in picows_env.items():
        monkeypatch.setenv(name, value)
