"""What is gathered during one read, on the connection that is read and on others: it counts, it
leaves, and what goes wrong with one of them stays there.

On detached connections, whose loop and transports do what a test says; that coalescing works over
real sockets is shown in test_writing.py.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aio.detached import Collecting, Detached, Loop
from aio.traffic import frame_to

from picows import WSMsgType, WSTransport, broadcast
from raw_peer import TEXT

SILENT = logging.Logger("silent")
SILENT.disabled = True


def gathering(
    loop: Loop, react: Callable[[WSTransport, object], object] | None = None, **options: Any
) -> Detached:
    return Detached("server", Collecting(react), loop=loop, coalesce_writes=True, **options)


def batch(count: int) -> bytes:
    """Frames that come in one read."""
    return frame_to("server", TEXT, b"x") * count


def payloads(connection: Detached) -> list[bytes]:
    return [frame.payload for frame in connection.sent()]


def counting(connection: Detached) -> None:
    """What is written waits from now on."""
    write = connection.below.write

    def write_and_count(data: bytes) -> None:
        write(data)
        connection.below.waiting += len(data)

    connection.below.write = write_and_count  # type: ignore[method-assign]


@pytest.mark.parametrize("coalesce", [False, True])
def test_what_is_gathered_counts_for_the_limit(coalesce: bool) -> None:
    told = []
    connection = Detached(
        "server",
        Collecting(lambda transport, frame: told.append(transport.send(WSMsgType.TEXT, "y" * 88))),
        coalesce_writes=coalesce,
        max_write_buffer=1000,
        overflow_policy="drop",
    )
    with connection:
        counting(connection)
        connection.below.waiting = 900
        connection.feed(batch(6))
        assert told == [True, False, False, False, False, False]
        assert connection.below.waiting == 990


def test_what_is_gathered_counts_for_the_limit_of_a_broadcast() -> None:
    told = []
    loop = Loop()
    with (
        gathering(loop, max_write_buffer=1000, overflow_policy="drop") as slow,
        gathering(
            loop, lambda *_: told.append(broadcast([slow.transport], WSMsgType.TEXT, "y" * 88).sent)
        ) as connection,
    ):
        counting(slow)
        slow.below.waiting = 900
        # It was sent on before, so that something may wait.
        slow.transport.send_ping()
        connection.feed(batch(6))
        assert told == [1, 0, 0, 0, 0, 0]


class Raising(logging.Logger):
    def log(self, *args: Any, **kwargs: Any) -> None:
        raise LookupError("a logging handler")

    def isEnabledFor(self, level: int) -> bool:
        return False


def test_one_that_fails_keeps_nobody_waiting() -> None:
    """Neither by its socket's error, nor by a logging handler that raises when told of it."""
    loop = Loop()
    ours, theirs = socket.socketpair()
    with (
        ours,
        gathering(loop, below_socket=ours, logger_name=Raising("raising")) as failing,
        gathering(loop) as other,
        gathering(loop, lambda *_: (tell(failing), tell(other))) as connection,
    ):

        def tell(each: Detached) -> None:
            each.transport.send(WSMsgType.TEXT, "told")

        theirs.close()
        with pytest.raises(LookupError):
            connection.feed(batch(2))
        assert payloads(other) == [b"told", b"told"]
        tell(other)
        assert payloads(other) == [b"told"] * 3


@pytest.mark.parametrize("aside", [False, True])
def test_where_gathered_frames_are_missing_nothing_follows(aside: bool) -> None:
    """They were told as sent; the peer would take what comes next for what comes next."""

    def talk(transport: WSTransport, frame: object) -> None:
        if not raised:
            there.transport.send(WSMsgType.TEXT, "one")
            write = there.below.write

            def fail(data: object) -> None:
                there.below.write = write  # type: ignore[method-assign]
                raise MemoryError

            there.below.write = fail  # type: ignore[method-assign]
            try:
                there.transport.flush()
            except MemoryError as exc:
                raised.append(exc)
            assert there.transport.send(WSMsgType.TEXT, "two") is False

    raised: list[MemoryError] = []
    loop = Loop()
    with gathering(loop) as other, gathering(loop, talk) as connection:
        there = other if aside else connection
        connection.feed(batch(3))
        assert len(raised) == 1
        assert payloads(there) == []
        assert there.transport.is_disconnected


def test_a_callback_that_runs_the_loop_lets_others_send() -> None:
    """It may wait there for the answer to what it has sent."""

    def wait(transport: WSTransport, frame: object) -> None:
        other.transport.send(WSMsgType.TEXT, "asked")
        loop.run()
        seen.append(payloads(other))

    seen: list[list[bytes]] = []
    loop = Loop()
    with gathering(loop) as other, gathering(loop, wait) as connection:
        connection.feed(batch(2))
        assert seen == [[b"asked"], [b"asked", b"asked"]]


def test_what_is_gathered_beside_is_bounded_in_all() -> None:
    """40,000 bytes a connection would be 18 MB."""

    def talk(transport: WSTransport, frame: object) -> None:
        for each in others:
            each.transport.send(WSMsgType.BINARY, bytes(20_000))
        seen.append(sum(len(each.below.written) for each in others))

    seen: list[int] = []
    loop = Loop()
    others = [gathering(loop) for _ in range(450)]
    with gathering(loop, talk) as connection:
        connection.feed(batch(2))
        whole = 450 * 2 * 20_004
        assert seen[0] == 0
        assert whole - seen[1] < 16 * 1024 * 1024 < whole
        assert sum(len(each.below.written) for each in others) == whole
    for each in others:
        with each:
            pass


@pytest.mark.parametrize("when", ["gathered", "postponed"])
def test_a_transport_that_is_lost_is_not_written_to(when: str) -> None:
    """uvloop's raises then."""

    class Late(Collecting):
        def resume_writing(self) -> None:
            connection.transport.send(WSMsgType.TEXT, "more")

    def lose(transport: WSTransport, frame: object) -> None:
        transport.send(WSMsgType.TEXT, "one")
        connection.lose()
        connection.below.write = refuse  # type: ignore[method-assign]

    def refuse(data: object) -> None:
        raise AssertionError("written to")

    connection = Detached("server", Late(lose), coalesce_writes=True)
    if when == "gathered":
        connection.feed(batch(2))
    else:
        connection.connection.pause_writing()
        connection.connection.resume_writing()
        connection.lose()
        connection.below.write = refuse  # type: ignore[method-assign]
    connection.loop.run()
    assert connection.sent() == []


def test_a_broadcast_goes_on_behind_a_transport_that_has_let_go() -> None:
    """asyncio's TLS of Python 3.10, between its own connection_lost and ours."""

    def gone() -> int:
        raise AttributeError("get_write_buffer_size")

    loop = Loop()
    everybody = [
        Detached("server", loop=loop, max_write_buffer=1000, overflow_policy="drop")
        for _ in range(3)
    ]
    everybody[1].transport.send_ping()
    everybody[1].below.get_write_buffer_size = gone  # type: ignore[method-assign]
    result = broadcast([each.transport for each in everybody], WSMsgType.TEXT, "hi")
    assert result.sent == 3
    assert [payloads(each)[-1] for each in everybody] == [b"hi"] * 3
    for each in everybody:
        with each:
            pass


def test_a_disconnect_inside_the_flush_of_another_is_the_end() -> None:
    """Not an abort() first and then a close()."""

    class Pausing(Collecting):
        def pause_writing(self) -> None:
            connection.transport.disconnect(graceful=False)

    def talk(transport: WSTransport, frame: object) -> None:
        transport.send(WSMsgType.TEXT, "one")
        transport.disconnect()

    def write_and_pause(data: bytes) -> None:
        write(data)
        connection.connection.pause_writing()

    calls = []
    with Detached("server", Pausing(talk), coalesce_writes=True) as connection:
        below = connection.below
        write, end = below.write, below.close
        below.write = write_and_pause  # type: ignore[method-assign]
        below.close = lambda: (calls.append("close"), end())  # type: ignore[assignment,return-value]
        below.abort = lambda: (calls.append("abort"), end())  # type: ignore[assignment,return-value]
        connection.feed(batch(2))
        assert calls == ["abort"]
        below.close = end  # type: ignore[method-assign]
