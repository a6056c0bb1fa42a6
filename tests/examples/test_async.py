"""Examples of what is built on top of the callbacks: tasks, iteration, messages."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from examples.support import each_ending, each_loop, example, serving

from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawFrame,
    RawPeer,
    RawServer,
    encode_close,
    encode_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CALLBACKS = "echo_client_async_callbacks.py"
ITERATION = "echo_client_async_iteration.py"
FRAGMENTED = "echo_client_fragmented_msg.py"


def until_close(peer: RawPeer) -> list[RawFrame]:
    """The client's frames, the last of which is its CLOSE."""
    frames = [peer.recv_frame()]
    while frames[-1].opcode != CLOSE:
        frames.append(peer.recv_frame())
    return frames


def code_of(frame: RawFrame) -> int:
    return int.from_bytes(frame.payload[:2], "big")


def expects_goodbye(peer: RawPeer) -> None:
    close = until_close(peer)[-1]
    assert close.payload == (1000).to_bytes(2, "big") + b"done"
    peer.send(encode_close(1000, b"done"))


def sends(*frames: bytes) -> Callable[[RawPeer], None]:
    """A server that sends this, all at once, and lets the client say goodbye."""

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=b"".join(frames))
        expects_goodbye(peer)

    return script


def sends_wrong(code: int, *frames: bytes) -> Callable[[RawPeer], None]:
    """A server that sends this, and is told off."""

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=b"".join(frames))
        assert code_of(until_close(peer)[-1]) == code

    return script


def texts(*numbers: object) -> list[bytes]:
    return [encode_frame(TEXT, str(number).encode()) for number in numbers]


# -- a task for each frame -------------------------------------------------------------------------


@each_loop
def test_tasks_keep_the_order(loop: str) -> None:
    args = ("--count", 20, "--work", 0.002, "--loop", loop)
    with serving("echo_server.py") as (_, url), example(CALLBACKS, url, *args) as client:
        assert client.end().splitlines() == [
            *(f"{number}: at work" for number in range(20)),
            "20 echoes in order, 0 tasks to cancel",
        ]


@each_ending
@each_loop
def test_tasks_are_cancelled_at_the_end(loop: str, ending: signal.Signals) -> None:
    with RawServer(sends(*texts(0, 1, 2))) as server:
        with example(CALLBACKS, server.url(), "--work", 3600, "--loop", loop) as client:
            assert client.line() == "0: at work\n"
            assert client.end(ending) == "0 echoes in order, 3 tasks to cancel\n"


@each_loop
def test_exception_of_a_task_ends_the_connection(loop: str) -> None:
    with RawServer(sends_wrong(1011, *texts(0, 7))) as server:
        with example(CALLBACKS, server.url(), "--loop", loop) as client:
            output, complaints = client.fail()
    assert output.endswith("\n1 echoes in order, 0 tasks to cancel\n")
    assert complaints.endswith("\nValueError: 1 expected, not '7'\n")


@each_loop
def test_exception_before_the_first_await(loop: str) -> None:
    """An eager task raises inside of on_ws_frame, a plain one later: no difference out there."""
    with RawServer(sends_wrong(1003, encode_frame(BINARY, b"0"))) as server:
        with example(CALLBACKS, server.url(), "--loop", loop) as client:
            output, complaints = client.fail()
    assert output == "0 echoes in order, 0 tasks to cancel\n"
    assert complaints.endswith("WSProtocolError: only text is understood here\n")


# -- async for -------------------------------------------------------------------------------------


@each_loop
def test_iteration(loop: str) -> None:
    args = ("--count", 500, "--work", 0, "--loop", loop)
    with serving("echo_server.py") as (_, url), example(ITERATION, url, *args) as client:
        first, last = client.end().splitlines()
    assert first == "Are you there?"
    assert last.startswith("500 echoes in order, at most ")


@each_loop
def test_queue_is_bounded(loop: str) -> None:
    # One segment: all of it has been read when the first frame is delivered.
    with RawServer(sends(*texts("Yes.", *range(500)))) as server:
        args = ("--count", 500, "--work", 0, "--limit", 8, "--loop", loop)
        with example(ITERATION, server.url(), *args) as client:
            assert client.end() == "Yes.\n500 echoes in order, at most 8 waited\n"


@each_loop
def test_iteration_ends_with_the_connection(loop: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=b"".join(texts("Yes.", *range(20))))
        peer.end_sending()
        peer.recv_all()

    with RawServer(script) as server:
        with example(ITERATION, server.url(), "--limit", 8, "--loop", loop) as client:
            assert client.end() == "Yes.\n20 echoes in order, at most 8 waited\n"


@each_ending
@each_loop
def test_iteration_reads_what_is_on_its_way(loop: str, ending: signal.Signals) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=b"".join(texts("Yes.")))
        assert code_of(until_close(peer)[-1]) == 1000
        peer.send(*texts(0, 1), encode_close(1000))

    with RawServer(script) as server:
        with example(ITERATION, server.url(), "--loop", loop) as client:
            assert client.line() == "Yes.\n"
            assert client.end(ending) == "2 echoes in order, at most 2 waited\n"


def test_iteration_raises_what_ended_the_connection() -> None:
    with RawServer(sends_wrong(1002, *texts("Yes."), encode_frame(3))) as server:
        with example(ITERATION, server.url()) as client:
            output, complaints = client.fail()
    assert output.startswith("Yes.\n0 echoes in order, ")
    assert "picows.errors.WSProtocolError: " in complaints


# -- messages of several frames --------------------------------------------------------------------


@pytest.mark.parametrize(("size", "fragments"), [(1, 14), (5, 3), (100, 1)])
@each_loop
def test_message_in_fragments(loop: str, size: int, fragments: int) -> None:
    message = "na\u00efve \u2615 w\u00f6"
    args = ("--message", message, "--fragment-size", size, "--loop", loop)
    with serving("echo_server.py") as (_, url), example(FRAGMENTED, url, *args) as client:
        assert client.end().splitlines() == [
            "sent",
            f"{message!r} in {fragments} fragments, {fragments - 1} PONGs in between",
        ]


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("abcde", [(TEXT, b"ab", False), (CONTINUATION, b"cd", False), (CONTINUATION, b"e", True)]),
        ("abcd", [(TEXT, b"ab", False), (CONTINUATION, b"cd", True)]),
        ("a", [(TEXT, b"a", True)]),
        ("", [(TEXT, b"", True)]),
    ],
)
def test_fragments_as_they_are_sent(message: str, sent: list[tuple[int, bytes, bool]]) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        for opcode, payload, fin in sent:
            ping = peer.recv_frame()
            assert (ping.opcode, ping.fin) == (PING, True)
            assert peer.recv_frame() == RawFrame(opcode, payload, fin, masked=True)
            peer.send_frame(PONG, ping.payload)
        peer.send_frame(TEXT, b"ok")
        expects_goodbye(peer)

    with RawServer(script) as server:
        args = ("--message", message, "--fragment-size", 2)
        with example(FRAGMENTED, server.url(), *args) as client:
            assert client.end() == "sent\n'ok' in 1 fragments, 0 PONGs in between\n"


@each_loop
def test_message_at_the_limit(loop: str) -> None:
    message = [
        encode_frame(TEXT, b"12345", fin=False),
        encode_frame(CONTINUATION, b"", fin=False),
        encode_frame(CONTINUATION, b"67890"),
    ]
    with RawServer(sends(*message)) as server:
        with example(FRAGMENTED, server.url(), "--limit", 10, "--loop", loop) as client:
            assert "'1234567890' in 3 fragments, " in client.end()


@pytest.mark.parametrize(
    ("frames", "code", "reason"),
    [
        pytest.param(
            [(TEXT, b"12345", False), (CONTINUATION, b"678901", True)],
            1009,
            "a message of more than 10 bytes",
            id="too big together",
        ),
        pytest.param(
            [(TEXT, b"12345678901", True)], 1009, "a message of more than 10 bytes", id="too big"
        ),
        pytest.param(
            [(CONTINUATION, b"1", True)], 1002, "a fragment out of order", id="no beginning"
        ),
        pytest.param(
            [(TEXT, b"1", False), (TEXT, b"2", True)], 1002, "a fragment out of order", id="no end"
        ),
        pytest.param(
            [(TEXT, b"\xc3", False), (CONTINUATION, b"(", True)],
            1007,
            "text that is not UTF-8",
            id="no text",
        ),
    ],
)
def test_bad_messages(frames: list[tuple[int, bytes, bool]], code: int, reason: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        peer.send(*(encode_frame(opcode, data, fin=fin) for opcode, data, fin in frames))
        close = until_close(peer)[-1]
        assert close.payload == code.to_bytes(2, "big") + reason.encode()

    with RawServer(script) as server:
        with example(FRAGMENTED, server.url(), "--limit", 10) as client:
            assert client.end(code=1) == f"sent\nclosed with {code}: {reason}\n"


@each_ending
def test_fragmented_client_is_stopped(ending: signal.Signals) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        peer.recv_all()

    with RawServer(script) as server, example(FRAGMENTED, server.url()) as client:
        assert client.line() == "sent\n"
        assert client.end(ending) == ""
