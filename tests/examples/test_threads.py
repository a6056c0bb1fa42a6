"""Examples with threads."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

from examples.support import each_ending, each_loop, example, port_of, serving

from raw_peer import CLOSE, TEXT, RawPeer, RawServer, encode_close, raw_connect

if TYPE_CHECKING:
    import signal

CLIENT = "echo_client_threaded.py"
SERVER = "echo_server_threaded.py"
MASK = b"\x37\xfa\x21\x3d"
WRONG_THREAD = "RuntimeError: a WSTransport is called from the thread of its event loop only; "


@each_loop
def test_threads_send_to_one_connection(loop: str) -> None:
    args = ("--threads", 3, "--count", 200, "--loop", loop)
    with serving("echo_server.py") as (_, url), example(CLIENT, url, *args) as client:
        error, *lines = client.end().splitlines()
    assert error.startswith(WRONG_THREAD)
    assert lines == [f"thread-{index}: 200 echoes, in order" for index in range(3)]


@each_ending
@each_loop
def test_threaded_client_is_stopped(loop: str, ending: signal.Signals) -> None:
    """At whatever moment: nothing is raised where the pool or the queue has a lock."""

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        for _ in range(20):
            assert peer.recv_frame().opcode == TEXT
        frame = peer.recv_frame()
        assert (frame.opcode, frame.payload) == (CLOSE, b"\x03\xe8done")
        peer.send(encode_close(1000))

    args = ("--threads", 2, "--count", 10, "--loop", loop)
    with RawServer(script) as server, example(CLIENT, server.url(), *args) as client:
        assert client.line().startswith(WRONG_THREAD)
        assert client.end(ending).splitlines() == [
            "stopped",
            "thread-0: 0 echoes, in order",
            "thread-1: 0 echoes, in order",
        ]


@each_loop
def test_threaded_client_and_a_server_that_goes_away(loop: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        peer.send(*(peer_text(peer) for _ in range(3)), encode_close(1001))
        peer.recv_all()

    def peer_text(peer: RawPeer) -> bytes:
        payload = peer.recv_frame().payload
        return bytes([0x81, len(payload)]) + payload

    args = ("--threads", 1, "--count", 10, "--loop", loop)
    with RawServer(script) as server, example(CLIENT, server.url(), *args) as client:
        assert client.line().startswith(WRONG_THREAD)
        assert client.end() == "the server went away\nthread-0: 3 echoes, in order\n"


def test_threaded_client_without_a_server() -> None:
    """What ws_connect raises in the loop's thread comes out in the one that asked."""
    with serving("echo_server.py") as (_, url):
        pass
    with example(CLIENT, url) as client:
        output, complaints = client.fail()
    assert output == ""
    assert "ConnectionRefusedError" in complaints


@each_ending
@each_loop
def test_server_on_several_threads(loop: str, ending: signal.Signals) -> None:
    with serving(SERVER, "--threads", 3, "--loop", loop) as (server, url), ExitStack() as stack:
        peers: list[RawPeer] = []
        served_by: set[str] = set()
        # The kernel chooses by a hash of the addresses: 50 times the same one is out of the
        # question.
        while len(served_by) < 2 and len(peers) < 50:
            peer = stack.enter_context(raw_connect(port_of(url)))
            peers.append(peer)
            peer.request_upgrade()
            peer.send_frame(TEXT, b"hello", mask=MASK)
            assert peer.recv_frame().payload == b"hello"
            match = re.fullmatch(r"(thread-[012]) serves 127\.0\.0\.1:(\d+)\n", server.line())
            assert match
            assert int(match[2]) == peer.sock.getsockname()[1]
            served_by.add(match[1])
        assert len(served_by) == 2

        server.process.send_signal(ending)
        for peer in peers:
            assert peer.recv_frame().payload == b"\x03\xe9"
            peer.send(encode_close(1001, mask=MASK))
        assert server.end() == ""


def test_port_that_is_taken() -> None:
    with serving("echo_server.py") as (_, url):
        with example(SERVER, "--port", port_of(url), "--threads", 2) as server:
            output, complaints = server.fail()
    assert output == ""
    assert "OSError" in complaints
