"""What the Autobahn TestSuite says in its quick cases, said again without it.

CI cannot have the suite: it needs a Python 2.7, which Debian does not have any more. So its side of
each conversation, recorded when it was content with ours (record.py), comes here from a raw peer,
all at once or byte by byte, and agent.py's programs must answer as they did then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from importlib import import_module

import pytest
from aio.traffic import MASK, read_to_end
from autobahn.agent import APIS
from autobahn.recording import CLOSE, RSV1, Frame, Recording, inflated, load
from autobahn.run import QUICK, SIDES, load_expected

from raw_peer import RawFrame, RawPeer, RawServer, field, in_thread, raw_connect

RECORDINGS = load()

every_api = pytest.mark.parametrize("api", APIS)
every_cut = pytest.mark.parametrize("cut", ["whole", "bytewise"])
on_both_loops = pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))


def recordings_of(side: str) -> pytest.MarkDecorator:
    found = [one for one in RECORDINGS if side in one.sides]
    return pytest.mark.parametrize("recording", found, ids=[one.case for one in found])


def converse(peer: RawPeer, recording: Recording, side: str, cut: str) -> list[RawFrame]:
    """The suite's part; returns what our side sent until it ended the connection."""
    mask = MASK if side == "server" else None
    stream = b"".join(frame.encode(mask) for frame in recording.received)
    size = len(stream) if cut == "whole" else 1
    # What follows a violation or a CLOSE may meet a closed socket.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for at in range(0, len(stream), size):
            peer.send(stream[at : at + size])
    return read_to_end(peer)


def header(value: str) -> list[bytes]:
    return [b"Sec-WebSocket-Extensions: " + value.encode()] if value else []


def value_in(head: bytes) -> str:
    return (field(head, b"Sec-WebSocket-Extensions") or b"").decode()


def compare(recording: Recording, side: str, sent: list[RawFrame]) -> None:
    assert {frame.masked for frame in sent} == {side == "client"}
    if recording.answer:
        assert {frame.rsv for frame in sent if frame.opcode != CLOSE} == {RSV1 >> 4}
    frames = (
        Frame(frame.fin << 7 | frame.rsv << 4 | frame.opcode, frame.payload) for frame in sent
    )
    assert told(inflated(frames, side, recording.answer)) == told(recording.sent)


def told(frames: Iterable[Frame]) -> list[str]:
    """Frames, but of a CLOSE only its code: a reason of ours may be put better one day."""
    return [
        str(frame._replace(payload=frame.payload[:2]) if frame.opcode == CLOSE else frame)
        for frame in frames
    ]


def test_every_quick_case_is_recorded_for_both_sides():
    wanted = set(load_expected(list(QUICK)))
    for side in SIDES:
        assert {one.case for one in RECORDINGS if side in one.sides} == wanted


@every_api
@every_cut
@recordings_of("server")
@on_both_loops
async def test_server(net, api, recording, cut):
    server, port = await import_module(f"autobahn.{api}_api").serve()

    def suite() -> tuple[bytes, list[RawFrame]]:
        with raw_connect(port) as peer:
            head = peer.request_upgrade(*header(recording.offer))
            return head, converse(peer, recording, "server", cut)

    head, sent = await in_thread(suite)
    server.close()
    await server.wait_closed()
    assert value_in(head) == recording.answer
    compare(recording, "server", sent)


@every_api
@every_cut
@recordings_of("client")
@on_both_loops
async def test_client(net, api, recording, cut):
    heard: list[tuple[bytes, list[RawFrame]]] = []

    def suite(peer: RawPeer) -> None:
        head = peer.accept_upgrade(*header(recording.answer))
        heard.append((head, converse(peer, recording, "client", cut)))

    async with RawServer(suite) as server:
        await import_module(f"autobahn.{api}_api").converse(server.url())
    ((head, sent),) = heard
    if recording.answer:
        # The suite gave its answer to this offer; if ours is another one now, record anew.
        assert value_in(head) == recording.offer
    compare(recording, "client", sent)
