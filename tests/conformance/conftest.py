from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conformance.support import PEERS_PYTHON, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def peers(certificate_files: Any) -> Iterator[Callable[[str], Peer]]:
    """peers("aiohttp") is that peer, started at the first call."""
    if not PEERS_PYTHON.exists():
        pytest.skip("the peers live in .venv-peers, which `make peers` makes")
    running: dict[str, Peer] = {}

    def peer(name: str) -> Peer:
        if name not in running or running[name].process.poll() is not None:
            running[name] = Peer(name, certificate_files.cert, certificate_files.ca)
        return running[name]

    yield peer
    for one in running.values():
        one.stop()
