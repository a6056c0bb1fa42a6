"""Examples of how to reach a server, and to keep it: round-trip times, reconnecting, Unix sockets,
proxies.
"""

from __future__ import annotations

import asyncio
import re
import signal
from typing import TYPE_CHECKING

import pytest
from examples.support import Running, each_ending, each_loop, example, port_of, serving
from proxies import Proxies, Proxy

import loops
from raw_peer import CLOSE, PING, PONG, TEXT, RawFrame, RawPeer, RawServer, encode_close

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OKX = "okx_roundtrip_time.py"
RECONNECTING = "reconnecting_client.py"
UNIX = "echo_unix_socket.py"
PROXY = "proxy_client.py"


@pytest.fixture
def dead_url() -> str:
    """Where no server is any more."""
    with serving("echo_server.py") as (_, url):
        return url


# -- round-trip times ------------------------------------------------------------------------------

TIMES = r": [\d.]+ to [\d.]+ ms, median [\d.]+"


def answers_three_pings(peer: RawPeer) -> None:
    peer.accept_upgrade()
    for _ in range(3):
        ping = peer.recv_frame()
        assert ping.opcode == PING
        peer.send_frame(PONG, ping.payload)
    assert peer.recv_frame() == RawFrame(CLOSE, b"\x03\xe8", masked=True)
    peer.send(encode_close(1000))


@each_loop
def test_server_that_is_near(loop: str) -> None:
    with RawServer(answers_three_pings) as server:
        args = ("--rounds", 3, "--threshold", 1e9, "--loop", loop)
        with example(OKX, server.url(), *args) as client:
            first, last = client.end().splitlines()
    assert re.fullmatch("1" + TIMES, first)
    assert last == "near enough; here the program would begin its work"


@each_loop
def test_reconnects_past_the_threshold(loop: str) -> None:
    connections = []

    def script(peer: RawPeer) -> None:
        connections.append(peer)
        answers_three_pings(peer)

    with RawServer(script) as server:
        args = ("--rounds", 3, "--threshold", 0, "--attempts", 3, "--pause", 0, "--loop", loop)
        with example(OKX, server.url(), *args) as client:
            *attempts, last = client.end(code=1).splitlines()
    assert last == "no connection was within 0 ms"
    assert len(attempts) == len(connections) == 3
    for number, line in enumerate(attempts, 1):
        assert re.fullmatch(f"{number}{TIMES}", line)


def test_measuring_where_no_server_is(dead_url: str) -> None:
    with example(OKX, dead_url, "--attempts", 2, "--pause", 0) as client:
        first, second, last = client.end(code=1).splitlines()
    assert first.startswith("1: ConnectionRefusedError: ")
    assert second.startswith("2: ConnectionRefusedError: ")
    assert last == "no connection was within 100 ms"


def test_server_that_goes_while_it_is_measured() -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        peer.recv_frame()
        peer.send(encode_close(1001))
        peer.recv_all()

    with RawServer(script) as server:
        with example(OKX, server.url(), "--attempts", 2, "--pause", 0) as client:
            first, second, _ = client.end(code=1).splitlines()
    assert first.startswith("1: ConnectionResetError: ")
    assert second.startswith("2: ConnectionResetError: ")


@each_ending
@each_loop
def test_measuring_is_stopped(loop: str, ending: signal.Signals) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        assert peer.recv_frame().opcode == PING
        client.process.send_signal(ending)
        peer.recv_all()

    with RawServer(script) as server, example(OKX, server.url(), "--loop", loop) as client:
        assert client.end(code=1) == "stopped\n"


# -- reconnecting ----------------------------------------------------------------------------------


def longest_delay(client: Running) -> float:
    """From its next line, which says how long it waits."""
    match = re.fullmatch(r"again in ([\d.]+) of at most ([\d.]+) s\n", client.line())
    assert match
    assert 0 <= float(match[1]) <= float(match[2])
    return float(match[2])


@each_ending
@each_loop
def test_restarted_server(loop: str, ending: signal.Signals) -> None:
    args = ("--first-delay", 0.01, "--max-delay", 0.05, "--lasted", 0, "--loop", loop)
    with serving("echo_server.py") as (server, url):
        with example(RECONNECTING, url, *args) as client:
            assert client.line() == "received 'hello'\n"
            server.process.kill()
            server.process.wait()
            assert client.line() == "the connection has ended\n"
            delays = [longest_delay(client)]
            # A process that dies closes its connections first; until its listening socket has gone,
            # the system still takes new ones, and resets them.
            refusals = ("ConnectionRefusedError: ", "ConnectionResetError: ")
            while len(delays) < 5:
                assert client.line().startswith(refusals)
                refusals = ("ConnectionRefusedError: ",)
                delays.append(longest_delay(client))
            assert delays == [0.01, 0.02, 0.04, 0.05, 0.05]

            with serving("echo_server.py", port=port_of(url)) as (again, _):
                while (line := client.line()) != "received 'hello'\n":
                    assert line.startswith(("ConnectionRefusedError: ", "again in 0.0"))
                # In good order, this time. The connection has lasted: all is forgotten.
                assert again.end(signal.SIGTERM) == ""
                assert client.line() == "the connection has ended\n"
                assert longest_delay(client) == 0.01
            assert client.end(ending).splitlines()[-1] == "stopped"


def test_connection_that_does_not_last() -> None:
    connections = []

    def script(peer: RawPeer) -> None:
        connections.append(peer)
        if len(connections) > 4:
            peer.recv_all()  # this one is cut off
            return
        peer.accept_upgrade()
        assert peer.recv_frame().payload == b"hello"
        peer.send(encode_close(1013))
        peer.recv_all()

    args = ("--first-delay", 0.01, "--max-delay", 0.05, "--lasted", 3600)
    with RawServer(script) as server:
        with example(RECONNECTING, server.url(), *args) as client:
            for expected in (0.01, 0.02, 0.04, 0.05):
                assert client.line() == "the connection has ended\n"
                assert longest_delay(client) == expected
            assert client.end(signal.SIGTERM) == "stopped\n"


@each_loop
def test_peer_that_vanished(loop: str) -> None:
    silent = []

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        if not silent:
            silent.append(peer)
            assert peer.recv_frame().payload == b"hello"
            assert peer.recv_frame().opcode == PING
            peer.recv_all()
            return
        frame = peer.recv_frame()
        while frame.opcode != CLOSE:
            peer.send_frame(TEXT if frame.opcode == TEXT else PONG, frame.payload)
            frame = peer.recv_frame()
        assert frame.payload == b"\x03\xe9"
        peer.send(encode_close(1001))

    args = ("--ping-after", loops.TIME_FACTOR, "--first-delay", 0, "--loop", loop)
    with RawServer(script) as server, example(RECONNECTING, server.url(), *args) as client:
        assert client.line() == "the connection has ended\n"
        assert longest_delay(client) == 0
        assert client.line() == "received 'hello'\n"
        assert client.end(signal.SIGTERM) == "stopped\n"


@each_ending
def test_reconnecting_is_stopped_while_it_waits(dead_url: str, ending: signal.Signals) -> None:
    # The wait is up to an hour: that it is none of the next seconds' is as good as certain.
    with example(RECONNECTING, dead_url, "--first-delay", 3600, "--max-delay", 3600) as client:
        assert client.line().startswith("ConnectionRefusedError: ")
        assert longest_delay(client) == 3600
        assert client.end(ending) == "stopped\n"


# -- Unix sockets ----------------------------------------------------------------------------------


@each_ending
@each_loop
def test_unix_socket(loop: str, ending: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    with example(UNIX, "server", path, "--loop", loop) as server:
        assert server.line() == f"listening on ws+unix://{path}:/ ({loop})\n"
        with example(UNIX, "client", path, "--count", 3, "--loop", loop) as client:
            lines = client.end().splitlines()
        assert [line.partition(" after ")[0] for line in lines] == [
            "'message 0'",
            "'message 1'",
            "'message 2'",
        ]
        assert server.end(ending) == ""
    assert not path.exists()


def test_unix_socket_without_a_server(tmp_path: Path) -> None:
    with example(UNIX, "client", tmp_path / "echo.sock") as client:
        assert "FileNotFoundError" in client.fail()[1]


# -- proxies ---------------------------------------------------------------------------------------


@pytest.fixture
def _no_system_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def http_proxy(tmp_path: Path) -> Iterator[Proxy]:
    proxies = Proxies(tmp_path, certificate=None)
    try:
        yield proxies["http-password"]
    finally:
        proxies.end()


@pytest.mark.usefixtures("_no_system_proxy")
@pytest.mark.parametrize("how", ["command line", "environment"])
@each_loop
def test_proxy(loop: str, how: str, http_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "environment":
        monkeypatch.setenv("http_proxy", http_proxy.url("127.0.0.1"))
        args = ["--system-proxy"]
    else:
        args = ["--proxy", http_proxy.url("127.0.0.1")]
    with serving("echo_server.py") as (_, url):
        with example(PROXY, url, *args, "--loop", loop) as client:
            assert client.end().splitlines() == [
                f"through 127.0.0.1:{http_proxy.port}",
                "received 'Hello, world'",
            ]
        asyncio.run(http_proxy.was_asked_for("127.0.0.1", port_of(url)))


@pytest.mark.usefixtures("_no_system_proxy")
@each_loop
def test_system_without_a_proxy(loop: str) -> None:
    with serving("echo_server.py") as (_, url):
        with example(PROXY, url, "--system-proxy", "--loop", loop) as client:
            assert client.end() == "without a proxy\nreceived 'Hello, world'\n"


@pytest.mark.usefixtures("_no_system_proxy")
def test_system_that_wants_no_proxy_here(monkeypatch: pytest.MonkeyPatch, dead_url: str) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{port_of(dead_url)}")
    with serving("echo_server.py") as (_, url):
        # Proof that the setting is heeded: nobody listens there.
        with example(PROXY, url, "--system-proxy") as client:
            output, complaints = client.fail()
        assert output == f"through 127.0.0.1:{port_of(dead_url)}\n"
        assert "ConnectionRefusedError" in complaints
        assert "secret" not in complaints
        monkeypatch.setenv("no_proxy", "example.org,127.0.0.1")
        with example(PROXY, url, "--system-proxy") as client:
            assert client.end() == "without a proxy\nreceived 'Hello, world'\n"
