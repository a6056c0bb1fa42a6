"""The processes that the interoperability tests talk to, and what their tests share.

A peer is started once per session and serves every test, on plain TCP and on TLS. It lives in the
virtual environment .venv-peers, because PyPI's picows must not meet ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

import loops

TESTS = Path(__file__).parent.parent
PEERS_PYTHON = TESTS.parent / ".venv-peers" / "bin" / "python"
LIMIT = 20 * loops.TIME_FACTOR  # seconds that one answer of another process may take
SIZES = [0, 1, 125, 126, 65535, 65536]  # bytes: the ends of each way to write a length
BIG = 16 << 20
REASON = "bye \U0001f44b"  # of a CLOSE; not ASCII


def clean_environment() -> dict[str, str]:
    """Ours without the sanitizers' settings; tests/conftest.py took out what is preloaded."""
    return {name: value for name, value in os.environ.items() if not name.endswith("SAN_OPTIONS")}


class Peer:
    """A process that runs peers/<name>_peer.py; peers/common.py has the lines that it speaks.

    Called from any thread; its answers are read in a thread of its own, so that it serves event
    loops of every kind."""

    def __init__(self, name: str, cert: Path, ca: Path) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [PEERS_PYTHON, "-m", f"conformance.peers.{name}_peer", "--cert", cert, "--ca", ca],
            cwd=TESTS,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.numbers = itertools.count(1)
        self.reader = threading.Thread(target=self._read, name=f"reads {name}")
        self.reader.start()
        self.ports: dict[str, int] = self._wait_for("ready")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put(json.loads(line))
        self.said.put({"over": True})

    def _wait_for(self, key: str, value: Any = None) -> Any:
        """The next message with `key`. What others tell in the meantime is dropped: it belongs to
        a test that failed before it asked."""
        while True:
            try:
                message = self.said.get(timeout=LIMIT)
            except queue.Empty:
                raise TimeoutError(f"{self.name} said no {key!r} in {LIMIT} seconds") from None
            if "over" in message:
                raise RuntimeError(f"{self.name} ended with {self.process.poll()}")
            if key in message and value in (None, message[key]):
                if "error" in message:
                    raise RuntimeError(f"{self.name} failed:\n{message['error']}")
                return message[key] if value is None else message

    def url(self, tls: bool, path: str) -> str:
        if tls:
            return f"wss://localhost:{self.ports['tls']}{path}"
        return f"ws://127.0.0.1:{self.ports['plain']}{path}"

    async def converse(self, url: str, steps: list[list[Any]]) -> list[Any]:
        """Let it connect to `url` and do `steps`; see run_steps()."""
        number = next(self.numbers)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": number, "url": url, "steps": steps}) + "\n")
        self.process.stdin.flush()
        message = await asyncio.to_thread(self._wait_for, "id", number)
        results: list[Any] = message["results"]
        return results

    async def closed(self, path: str) -> tuple[int, str | None]:
        """What its server saw at the end of the connection to `path`."""
        message = await asyncio.to_thread(self._wait_for, "closed", path)
        return message["code"], message["reason"]

    def stop(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
