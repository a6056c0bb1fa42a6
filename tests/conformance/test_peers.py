"""Our client against other libraries' servers, and our server against their clients.

Each case runs plain and over TLS, on asyncio and uvloop, on aiofastnet's transports and the loop's
own. Both sides report what they got, so a byte that is lost on either way fails the test.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from conformance.peers.common import answer, digest, payload, run_steps
from conformance.peers.picows_peer import Picows, PicowsChannel
from conformance.support import BIG, REASON, SIZES, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

FRAGMENTING = ["websockets", "picows"]  # aiohttp cannot send a message in fragments

# 16 MiB are slow: one loop and transport is enough, plain and TLS.
once = pytest.mark.net(loops=("uvloop",), aiofastnet=(None,))

numbers = itertools.count(1)

Saw = tuple[int, str | None]  # code and reason


def echoes(kind: str, sizes: list[int]) -> tuple[list[list[Any]], list[Any]]:
    """Steps and their results: messages of these sizes, all sent ahead, and then received."""
    steps = [["payload", kind, size] for size in sizes] + [["receive"]] * len(sizes)
    return steps, [None] * len(sizes) + [digest(kind, payload(kind, size)) for size in sizes]


def text(words: str) -> list[Any]:
    return digest("text", words.encode())


class Served(Picows):
    """Our server for one client; `outcome` is its channel and what it closed with, or the exception
    that answering it ended with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.path = ""
        self.outcome: asyncio.Future[tuple[PicowsChannel, Saw]]
        self.outcome = asyncio.get_running_loop().create_future()

    async def answered(self, channel: Any, path: str) -> None:
        self.path = path
        try:
            self.outcome.set_result((channel, await answer(channel)))
        except Exception as error:
            self.outcome.set_exception(error)


class OurClient:
    """At a peer's server."""

    def __init__(self, peer: Peer, net: Any) -> None:
        self.peer = peer
        self.net = net

    async def converse(
        self, steps: list[list[Any]], results: list[Any], closed: Saw, suffix: str = ""
    ) -> PicowsChannel:
        """`closed` is what the server saw."""
        path = f"/{next(numbers)}{suffix}"
        ours = Picows(use_aiofastnet=self.net.use_aiofastnet)
        url = self.peer.url(self.net.tls, path)
        channel = await ours.connect(url, self.net.client_ssl)
        assert channel.transport.is_secure == self.net.tls
        assert await run_steps(channel, steps) == results
        assert await self.peer.closed(path) == closed
        await channel.transport.wait_disconnected()
        assert (channel.connected, channel.disconnected) == (1, 1)
        return channel


class OurServer:
    """With a peer's client."""

    def __init__(self, peer: Peer, net: Any) -> None:
        self.peer = peer
        self.net = net

    async def converse(
        self, steps: list[list[Any]], results: list[Any], closed: Saw, suffix: str = ""
    ) -> PicowsChannel:
        """`closed` is what we saw."""
        path = f"/{next(numbers)}{suffix}"
        ours = Served(use_aiofastnet=self.net.use_aiofastnet)
        port = await ours.serve(self.net.server_ssl)
        try:
            assert await self.peer.converse(self.net.url(port, path), steps) == results
            channel, saw = await ours.outcome
            await channel.transport.wait_disconnected()
        finally:
            await ours.servers[0].shutdown(timeout=1)
        assert ours.path == path
        assert saw == closed
        assert channel.transport.is_secure == self.net.tls
        assert (channel.connected, channel.disconnected) == (1, 1)
        return channel


def closing(channel: PicowsChannel) -> tuple[Saw, Saw, bool | None]:
    """What we received, what we sent, and whether it came in this order."""
    handshake = channel.transport.close_handshake
    assert handshake is not None
    assert handshake.recv is not None
    assert handshake.sent is not None
    return (
        (handshake.recv.code, handshake.recv.reason or ""),
        (handshake.sent.code, handshake.sent.reason or ""),
        handshake.recv_then_sent,
    )


@pytest.fixture(params=["websockets", "aiohttp", "picows"])
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def client(name: str, net: Any, peers: Callable[[str], Peer]) -> OurClient:
    return OurClient(peers(name), net)


@pytest.fixture
def server(name: str, net: Any, peers: Callable[[str], Peer]) -> OurServer:
    return OurServer(peers(name), net)


@pytest.mark.parametrize("kind", ["text", "binary"])
async def test_client_messages(client: OurClient, kind: str) -> None:
    steps, results = echoes(kind, SIZES)
    channel = await client.converse(
        [*steps, ["close", 1000, ""]], [*results, [1000, ""]], (1000, "")
    )
    assert closing(channel) == ((1000, ""), (1000, ""), False)


@pytest.mark.parametrize("kind", ["text", "binary"])
async def test_server_messages(server: OurServer, kind: str) -> None:
    steps, results = echoes(kind, SIZES)
    answered = [1000, None if server.peer.name == "aiohttp" else ""]
    channel = await server.converse([*steps, ["close", 1000, ""]], [*results, answered], (1000, ""))
    assert closing(channel) == ((1000, ""), (1000, ""), True)


@once
async def test_client_16_mib(client: OurClient) -> None:
    steps, results = echoes("binary", [BIG])
    await client.converse([*steps, ["close", 1000, ""]], [*results, [1000, ""]], (1000, ""))


@once
async def test_server_16_mib(server: OurServer) -> None:
    steps, results = echoes("binary", [BIG])
    answered = [1000, None if server.peer.name == "aiohttp" else ""]
    await server.converse([*steps, ["close", 1000, ""]], [*results, answered], (1000, ""))


async def test_client_sends_fragments(client: OurClient) -> None:
    """Text that is cut inside characters, an empty fragment, and a PING between messages."""
    await client.converse(
        [
            ["fragments", "text", 40],
            ["ping", "between"],
            ["fragments", "binary", 70_000],
            ["receive"],
            ["receive"],
            ["close", 1000, ""],
        ],
        [
            *[None] * 3,
            digest("text", payload("text", 40)),
            digest("binary", payload("binary", 70_000)),
            [1000, ""],
        ],
        (1000, ""),
    )


@pytest.mark.parametrize("name", FRAGMENTING)
async def test_client_receives_fragments(client: OurClient) -> None:
    await client.converse(
        [
            ["send", "text", "!fragments text 40"],
            ["send", "text", "!fragments binary 70000"],
            ["receive"],
            ["receive"],
            ["close", 1000, ""],
        ],
        [
            *[None] * 2,
            digest("text", payload("text", 40)),
            digest("binary", payload("binary", 70_000)),
            [1000, ""],
        ],
        (1000, ""),
    )


@pytest.mark.parametrize("name", FRAGMENTING)
async def test_server_receives_fragments(server: OurServer) -> None:
    await server.converse(
        [
            ["fragments", "text", 40],
            ["fragments", "binary", 70_000],
            ["receive"],
            ["receive"],
            ["close", 1000, ""],
        ],
        [
            *[None] * 2,
            digest("text", payload("text", 40)),
            digest("binary", payload("binary", 70_000)),
            [1000, ""],
        ],
        (1000, ""),
    )


async def test_server_sends_fragments(server: OurServer) -> None:
    answered = [1000, None if server.peer.name == "aiohttp" else ""]
    await server.converse(
        [
            ["send", "text", "!fragments text 40"],
            ["send", "text", "!fragments binary 70000"],
            ["receive"],
            ["receive"],
            ["close", 1000, ""],
        ],
        [
            *[None] * 2,
            digest("text", payload("text", 40)),
            digest("binary", payload("binary", 70_000)),
            answered,
        ],
        (1000, ""),
    )


PINGS: list[list[Any]] = [
    ["ping", "ours"],
    ["ping", "x" * 125],
    ["send", "text", "!ping theirs"],
    ["receive"],
]
PONGS = [None, None, None, text("ponged theirs")]


async def test_client_pings(client: OurClient) -> None:
    await client.converse(
        [*PINGS, ["close", 1000, ""]], [*PONGS, [1000, ""]], (1000, ""), suffix="/pings"
    )


async def test_server_pings(server: OurServer) -> None:
    answered = [1000, None if server.peer.name == "aiohttp" else ""]
    await server.converse(
        [*PINGS, ["close", 1000, ""]], [*PONGS, answered], (1000, ""), suffix="/pings"
    )


@pytest.mark.parametrize("code", [1000, 4999])
async def test_client_closes(client: OurClient, code: int) -> None:
    back = (1000, "") if client.peer.name == "aiohttp" else (code, REASON)  # its own answer
    channel = await client.converse([["close", code, REASON]], [[*back]], (code, REASON))
    assert closing(channel) == (back, (code, REASON), False)


@pytest.mark.parametrize("code", [1000, 4999])
async def test_server_closes(server: OurServer, code: int) -> None:
    back = (1000, "") if server.peer.name == "aiohttp" else (code, REASON)  # its own answer
    channel = await server.converse(
        [["send", "text", f"!close {code} {REASON}"], ["receive"]], [None, [code, REASON]], back
    )
    assert closing(channel) == (back, (code, REASON), False)


@pytest.mark.parametrize("code", [1000, 4999])
async def test_client_is_closed(client: OurClient, code: int) -> None:
    back = None if client.peer.name == "aiohttp" else REASON
    channel = await client.converse(
        [["send", "text", f"!close {code} {REASON}"], ["receive"]],
        [None, [code, REASON]],
        (code, back),
    )
    assert closing(channel) == ((code, REASON), (code, REASON), True)


@pytest.mark.parametrize("code", [1000, 4999])
async def test_server_is_closed(server: OurServer, code: int) -> None:
    back = None if server.peer.name == "aiohttp" else REASON
    channel = await server.converse([["close", code, REASON]], [[code, back]], (code, REASON))
    assert closing(channel) == ((code, REASON), (code, REASON), True)


# PyPI's picows cannot send an empty CLOSE: it answers ours with the code 0, a violation.
without_code = pytest.mark.parametrize(
    ("name", "back"), [("websockets", (1005, "")), ("aiohttp", (1000, ""))]
)


@without_code
async def test_client_closes_without_a_code(client: OurClient, back: Saw) -> None:
    await client.converse([["close", 0, ""]], [[*back]], (1005, ""))


@without_code
async def test_server_closes_without_a_code(server: OurServer, back: Saw) -> None:
    steps = [["send", "text", "!close 0"], ["receive"]]
    await server.converse(steps, [None, [1005, ""]], back)
