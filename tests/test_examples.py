"""Every program of examples/ runs as its reader would run it: in a process of its own, against a
real peer on loopback, with its output read and its end, its exit code and a silent stderr checked.

Ports are chosen by the system and printed by the servers, so nothing here waits for a fixed time.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import pytest
import trustme

import loops

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent / "examples"
LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]
LIMIT = 30 * loops.TIME_FACTOR  # seconds that no process here may live
ENDINGS = [signal.SIGINT, signal.SIGTERM]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends programs by signals")


@pytest.fixture(autouse=True)
def _environment(picows_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples import what this process imports, also under `make sanitize`."""
    for name, value in picows_env.items():
        monkeypatch.setenv(name, value)


class Running:
    """One example in a process. Leaving `with` kills what is left of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, signum: signal.Signals | None = None) -> str:
        """The rest of its output, once it has ended by itself or by `signum`, well and silently."""
        if signum is not None:
            self.process.send_signal(signum)
        output, complaints = self.process.communicate(timeout=LIMIT)
        assert complaints == ""
        assert self.process.returncode == 0
        return output


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


@contextlib.contextmanager
def serving(script: str, *args: object) -> Iterator[tuple[Running, str]]:
    with started(*command(script, "--port", 0, *args)) as server:
        line = server.line()
        match = re.match(r"listening on (wss?://\S+:\d+/) ", line)
        assert match, (line, server.process.communicate(timeout=LIMIT))
        yield server, match[1]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
@pytest.mark.parametrize("loop", LOOPS)
def test_server_and_client(loop: str, ending: signal.Signals) -> None:
    with serving("echo_server.py", "--loop", loop) as (server, url):
        args = (url, "--count", 3, "--interval", 0, "--message", "na\u00efve", "--loop", loop)
        with started(*command("echo_client.py", *args)) as client:
            lines = client.end().splitlines()
        assert [re.sub(r"\d+ us", "N us", line) for line in lines] == [
            "1: 'na\u00efve' after N us",
            "2: 'na\u00efve' after N us",
            "3: 'na\u00efve' after N us",
            "3 echoes, closed by the server with 1000",
        ]
        assert server.end(ending) == ""


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
@pytest.mark.parametrize("loop", LOOPS)
def test_client_says_goodbye_when_it_is_stopped(loop: str, ending: signal.Signals) -> None:
    with (
        serving("echo_server.py", "--no-aiofastnet") as (_, url),
        started(*command("echo_client.py", url, "--interval", LIMIT, "--loop", loop)) as client,
    ):
        assert client.line().startswith("1: 'Hello, world' after ")
        assert client.end(ending) == "1 echoes, closed by the server with 1000\n"


@pytest.mark.parametrize("loop", LOOPS)
def test_server_says_goodbye_when_it_is_stopped(loop: str) -> None:
    with (
        serving("echo_server.py", "--loop", loop) as (server, url),
        started(*command("echo_client.py", url, "--interval", LIMIT)) as client,
    ):
        assert client.line().startswith("1: ")
        assert server.end(signal.SIGTERM) == ""
        assert client.end() == "1 echoes, closed by the server with 1001\n"


def test_client_without_a_server() -> None:
    with serving("echo_server.py") as (server, url):
        server.end(signal.SIGTERM)
    result = run(*command("echo_client.py", url))
    assert result.returncode == 1
    assert "ConnectionRefusedError" in result.stderr


@pytest.mark.parametrize("loop", LOOPS)
def test_tls_with_a_certificate_made_on_the_fly(loop: str, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    with serving("echo_server_ssl.py", "--ca-out", ca, "--loop", loop) as (server, url):
        assert url.startswith("wss://")
        args = (url, "--count", 2, "--interval", 0, "--loop", loop)
        with started(*command("echo_client.py", *args, "--ca", ca)) as client:
            assert client.end().endswith("2 echoes, closed by the server with 1000\n")
        assert server.end(signal.SIGINT) == ""


def test_client_verifies_the_server() -> None:
    # aiofastnet 1.2 logs a failed handshake as an error, and fails while logging it; asyncio is
    # silent.
    with serving("echo_server_ssl.py", "--no-aiofastnet") as (server, url):
        stranger = run(*command("echo_client.py", url, "--count", 1))
        assert stranger.returncode == 1
        assert "CERTIFICATE_VERIFY_FAILED" in stranger.stderr
        assert server.end(signal.SIGINT) == ""


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    pem, ca = tmp_path / "pem", tmp_path / "ca.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    authority.cert_pem.write_to_path(str(ca))
    with serving("echo_server_ssl.py", "--cert", pem, "--no-aiofastnet") as (server, url):
        with started(*command("echo_client.py", url, "--count", 1, "--ca", ca)) as client:
            assert client.end().endswith("1 echoes, closed by the server with 1000\n")
        assert server.end(signal.SIGINT) == ""


@pytest.mark.parametrize("option", ["--aiofastnet", "--no-aiofastnet"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_demo(loop: str, tls: bool, option: str) -> None:
    args = ["--seconds", "0.3", "--loop", loop, option] + ["--tls"] * tls
    with started(*command("demo.py", *args)) as demo:
        where, sizes, rate, *latencies = demo.end().splitlines()
    assert where.startswith("wss://localhost:" if tls else "ws://127.0.0.1:")
    transport = "aiofastnet." if option == "--aiofastnet" else f"{loop}."
    assert f" loop: {loop}, transport: {transport}" in where
    assert sizes.startswith("32 bytes ")
    match = re.fullmatch(r"([\d,]+) round trips per second", rate)
    assert match
    assert int(match[1].replace(",", "")) > 100
    names, values = zip(*(line.split()[:2] for line in latencies), strict=True)
    assert names == ("p50", "p90", "p99", "max")
    assert 0 < float(values[0]) <= float(values[1]) <= float(values[2]) <= float(values[3])


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
def test_demo_is_stopped(ending: signal.Signals) -> None:
    with started(*command("demo.py", "--seconds", LIMIT)) as demo:
        assert demo.line().startswith("ws://")
        assert "round trips per second" in demo.end(ending)


def test_demo_counts_on_its_server(tmp_path: Path) -> None:
    """A server that dies is told by the exit code."""
    (tmp_path / "demo.py").write_bytes((EXAMPLES / "demo.py").read_bytes())
    (tmp_path / "echo_server.py").write_text("raise SystemExit('out of order')")
    result = run(sys.executable, str(tmp_path / "demo.py"))
    assert result.returncode == 1
    assert result.stderr == "out of order\nthe server did not start\n"


def test_cython_client(tmp_path: Path) -> None:
    # The compiler gets no sanitizer preloaded.
    build_env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    build_env["CFLAGS"] = "-O1"
    build = [sys.executable, str(EXAMPLES / "echo_client_cython_setup.py"), "-q", "build_ext"]
    built = subprocess.run(
        [*build, "--build-lib", str(tmp_path)],
        env=build_env,
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    found = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"  # with PYTHONSAFEPATH, too
    main = [sys.executable, "-c", f"{found}; import echo_client_cython as it; it.main()"]
    for loop in LOOPS:
        with serving("echo_server.py", "--loop", loop) as (server, url):
            with started(*main, url, "--count", "2000", "--loop", loop, cwd=tmp_path) as client:
                assert client.end().startswith("2000 round trips, 0 of them wrong, ")
            assert server.end(signal.SIGINT) == ""
