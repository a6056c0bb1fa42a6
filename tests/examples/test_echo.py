"""The echo servers and clients, and the demo that runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trustme
from examples.support import (
    EXAMPLES,
    LIMIT,
    LOOPS,
    each_ending,
    each_loop,
    example,
    serving,
    started,
)

if TYPE_CHECKING:
    from pathlib import Path


@each_ending
@each_loop
def test_server_and_client(loop: str, ending: signal.Signals) -> None:
    with serving("echo_server.py", "--loop", loop) as (server, url):
        args = (url, "--count", 3, "--interval", 0, "--message", "na\u00efve", "--loop", loop)
        with example("echo_client.py", *args) as client:
            lines = client.end().splitlines()
        assert [re.sub(r"\d+ us", "N us", line) for line in lines] == [
            "1: 'na\u00efve' after N us",
            "2: 'na\u00efve' after N us",
            "3: 'na\u00efve' after N us",
            "3 echoes, closed by the server with 1000",
        ]
        assert server.end(ending) == ""


@each_ending
@each_loop
def test_client_says_goodbye_when_it_is_stopped(loop: str, ending: signal.Signals) -> None:
    with (
        serving("echo_server.py", "--no-aiofastnet") as (_, url),
        example("echo_client.py", url, "--interval", LIMIT, "--loop", loop) as client,
    ):
        assert client.line().startswith("1: 'Hello, world' after ")
        assert client.end(ending) == "1 echoes, closed by the server with 1000\n"


@each_loop
def test_server_says_goodbye_when_it_is_stopped(loop: str) -> None:
    with (
        serving("echo_server.py", "--loop", loop) as (server, url),
        example("echo_client.py", url, "--interval", LIMIT) as client,
    ):
        assert client.line().startswith("1: ")
        assert server.end(signal.SIGTERM) == ""
        assert client.end() == "1 echoes, closed by the server with 1001\n"


def test_client_without_a_server() -> None:
    with serving("echo_server.py") as (server, url):
        server.end(signal.SIGTERM)
    with example("echo_client.py", url) as client:
        assert "ConnectionRefusedError" in client.fail()[1]


@each_loop
def test_tls_with_a_certificate_made_on_the_fly(loop: str, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    with serving("echo_server_ssl.py", "--ca-out", ca, "--loop", loop) as (server, url):
        assert url.startswith("wss://")
        args = (url, "--count", 2, "--interval", 0, "--loop", loop)
        with example("echo_client.py", *args, "--ca", ca) as client:
            assert client.end().endswith("2 echoes, closed by the server with 1000\n")
        assert server.end(signal.SIGINT) == ""


def test_client_verifies_the_server() -> None:
    # aiofastnet 1.2 logs a failed handshake as an error, and fails while logging it; asyncio is
    # silent.
    with serving("echo_server_ssl.py", "--no-aiofastnet") as (server, url):
        with example("echo_client.py", url, "--count", 1) as stranger:
            assert "CERTIFICATE_VERIFY_FAILED" in stranger.fail()[1]
        assert server.end(signal.SIGINT) == ""


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    pem, ca = tmp_path / "pem", tmp_path / "ca.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    authority.cert_pem.write_to_path(str(ca))
    with serving("echo_server_ssl.py", "--cert", pem, "--no-aiofastnet") as (server, url):
        with example("echo_client.py", url, "--count", 1, "--ca", ca) as client:
            assert client.end().endswith("1 echoes, closed by the server with 1000\n")
        assert server.end(signal.SIGINT) == ""


@pytest.mark.parametrize("option", [None, "--aiofastnet", "--no-aiofastnet"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@each_loop
def test_demo(loop: str, tls: bool, option: str | None) -> None:
    args = ["--seconds", "0.3", "--loop", loop] + ["--tls"] * tls
    if option is not None:
        args.append(option)
    with example("demo.py", *args) as demo:
        where, sizes, rate, *latencies = demo.end().splitlines()
    assert where.startswith("wss://localhost:" if tls else "ws://127.0.0.1:")
    default = "aiofastnet." if tls else "picows."
    transport = {None: default, "--aiofastnet": "aiofastnet.", "--no-aiofastnet": f"{loop}."}[
        option
    ]
    assert f" loop: {loop}, transport: {transport}" in where
    assert sizes.startswith("32 bytes ")
    match = re.fullmatch(r"([\d,]+) round trips per second", rate)
    assert match
    assert int(match[1].replace(",", "")) > 100
    names, values = zip(*(line.split()[:2] for line in latencies), strict=True)
    assert names == ("p50", "p90", "p99", "max")
    assert 0 < float(values[0]) <= float(values[1]) <= float(values[2]) <= float(values[3])


@each_ending
def test_demo_is_stopped(ending: signal.Signals) -> None:
    with example("demo.py", "--seconds", LIMIT) as demo:
        assert demo.line().startswith("ws://")
        assert "round trips per second" in demo.end(ending)


def test_demo_counts_on_its_server(tmp_path: Path) -> None:
    """A server that dies is told by the exit code."""
    (tmp_path / "demo.py").write_bytes((EXAMPLES / "demo.py").read_bytes())
    (tmp_path / "echo_server.py").write_text("raise SystemExit('out of order')")
    with started(sys.executable, str(tmp_path / "demo.py")) as demo:
        assert demo.fail() == ("", "out of order\nthe server did not start\n")


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
