from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conformance.support import PEERS_PYTHON, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Files(NamedTuple):
    """The suite's authority, and a certificate with its key, for localhost and 127.0.0.1."""

    ca: Path
    cert: Path


@pytest.fixture(scope="session")
def certificate_files(certificates: Any, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    files = Files(folder / "ca.pem", folder / "cert.pem")
    issued = certificates.authority.issue_cert("localhost", "127.0.0.1")
    certificates.authority.cert_pem.write_to_path(str(files.ca))
    issued.private_key_and_cert_chain_pem.write_to_path(str(files.cert))
    return files


@pytest.fixture(scope="session")
def peers(certificate_files: Files) -> Iterator[Callable[[str], Peer]]:
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
