"""How an example is run: in a process of its own, as its reader would run it. Its output is read,
and its end, its exit code and a silent stderr are checked.

Ports are chosen by the system and printed by the servers, so nothing here waits for a fixed time.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import pytest

import loops

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]
LIMIT = 30 * loops.TIME_FACTOR  # seconds that no process here may live
ENDINGS = [signal.SIGINT, signal.SIGTERM]

each_loop = pytest.mark.parametrize("loop", LOOPS)
each_ending = pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)


class Running:
    """One example in a process. Leaving `with` kills what is left of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, signum: signal.Signals | None = None, code: int = 0) -> str:
        """The rest of its output, once it has ended by itself or by `signum`, silently and with
        this exit code.
        """
        output, complaints = self.fail(signum, code)
        assert complaints == ""
        return output

    def fail(self, signum: signal.Signals | None = None, code: int = 1) -> tuple[str, str]:
        """As `end`, for a program that has something to complain of: its output and its stderr."""
        if signum is not None:
            self.process.send_signal(signum)
        output, complaints = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == code, complaints
        return output, complaints


def command(script: str, *args: object) -> list[str]:
    return [sys.executable, "-W", "default", str(EXAMPLES / script), *map(str, args)]


@contextlib.contextmanager
def started(*argv: str, cwd: Path | None = None) -> Iterator[Running]:
    with subprocess.Popen(
        argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        limit = Timer(LIMIT, process.kill)  # readline() has no timeout of its own
        limit.start()
        try:
            yield Running(process)
        finally:
            limit.cancel()
            limit.join()
            process.kill()


def example(script: str, *args: object) -> contextlib.AbstractContextManager[Running]:
    return started(*command(script, *args))


@contextlib.contextmanager
def serving(script: str, *args: object, port: int = 0) -> Iterator[tuple[Running, str]]:
    with example(script, "--port", port, *args) as server:
        line = server.line()
        match = re.match(r"listening on (wss?://\S+:\d+/) ", line)
        assert match, (line, server.process.communicate(timeout=LIMIT))
        yield server, match[1]


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])
