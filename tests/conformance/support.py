"""The processes that the interoperability tests talk to, and what their tests share.

A peer is started once per session and serves every test, on plain TCP and on TLS. It lives in the
virtual environment .venv-peers, because PyPI's picows must not meet ours; wsproto, an oracle of
other tests as well, in the suite's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import loops

TESTS = Path(__file__).parent.parent
PEERS_PYTHON = TESTS.parent / ".venv-peers" / "bin" / "python"
LIMIT = 20 * loops.TIME_FACTOR  # seconds that one answer of another process may take
SIZES = [0, 1, 125, 126, 65535, 65536]  # bytes: the ends of each way to write a length
BIG = 16 << 20
IN_OUR_OWN = ("wsproto",)
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
            [
                sys.executable if name in IN_OUR_OWN else PEERS_PYTHON,
                "-m",
                f"conformance.peers.{name}_peer",
                "--cert",
                cert,
                "--ca",
                ca,
            ],
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
        self.deflating_ports: dict[str, int] = {}

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

    async def converse(
        self, url: str, steps: list[list[Any]], deflate: dict[str, Any] | None = None
    ) -> list[Any]:
        """Let it connect to `url` and do `steps`; see run_steps()."""
        results: list[Any] = await self._ask({"url": url, "steps": steps, "deflate": deflate})
        return results

    async def deflating_url(self, deflate: dict[str, Any], path: str) -> str:
        """Of a server of its that accepts permessage-deflate with these parameters."""
        key = json.dumps(deflate, sort_keys=True)
        if key not in self.deflating_ports:
            self.deflating_ports[key] = await self._ask({"serve": True, "deflate": deflate})
        return f"ws://127.0.0.1:{self.deflating_ports[key]}{path}"

    async def _ask(self, task: dict[str, Any]) -> Any:
        task["id"] = next(self.numbers)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        message = await asyncio.to_thread(self._wait_for, "id", task["id"])
        return message["results"]

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
