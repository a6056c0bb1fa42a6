"""permessage-deflate with other libraries and a browser: every pair of window bits and of context
takeover, asked for by either side, in frame mode and in message mode (regressions line 29).

Both sides send what reaches back as far as a window of 15 bits goes, and say it again, so that a
window that is too small, or that should have been forgotten, shows as corrupt data or other bytes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest
from aio.deflate_peer import far
from conformance.peers.common import answer, digest, payload, run_steps
from conformance.peers.picows_peer import Picows, PicowsChannel

# Two of them are fixtures.
from conformance.test_chromium import Site, browser, chromium  # noqa: F401

from picows import PerMessageDeflate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.support import Peer
    from conformance.test_chromium import Browser

NAMES = (
    "client_no_context_takeover",
    "client_max_window_bits",
    "server_no_context_takeover",
    "server_max_window_bits",
)
Parameters = dict[str, Any]

# Neither sockets nor TLS have a part in it; the rest of the suite goes through these.
once = pytest.mark.net(loops=("uvloop",), tls=(False,), aiofastnet=(None,))
both_modes = pytest.mark.parametrize("assemble", [False, True], ids=["frames", "messages"])

numbers = itertools.count(1)


def parameters(
    client_alone: bool = False, client_bits: Any = 15, server_alone: bool = False, bits: Any = 15
) -> Parameters:
    return dict(zip(NAMES, (client_alone, client_bits, server_alone, bits), strict=True))


EVERY = [
    parameters(client_alone, client_bits, server_alone, server_bits)
    for client_alone, server_alone in itertools.product((False, True), repeat=2)
    for client_bits, server_bits in itertools.product(range(9, 16), repeat=2)
]
PLAIN = parameters()


def pairs() -> Iterator[tuple[Parameters, Parameters]]:
    """What we ask for and what the peer does: each alone, and some of both."""
    for each in EVERY:
        yield each, PLAIN
        yield PLAIN, each
    choose = random.Random(7692)
    for _ in range(50):
        yield choose.choice(EVERY), choose.choice(EVERY)


# Each message twice: the second time it is in the window, where that is kept.
MESSAGES: list[list[Any]] = [
    ["far", 300, 0],
    ["far", 300, 0],
    ["payload", "text", 0],
    ["fragments", "text", 40],
    ["far", 40_000, 1],
    ["far", 40_000, 1],
    ["payload", "binary", 70_000],
]
WANTED = [
    digest("binary", far(300, 0)),
    digest("binary", far(300, 0)),
    digest("text", b""),
    digest("text", payload("text", 40)),
    digest("binary", far(40_000, 1)),
    digest("binary", far(40_000, 1)),
    digest("binary", payload("binary", 70_000)),
]
# A peer that cannot send fragments sends whole messages.
UNFRAGMENTED = [["payload", *step[1:]] if step[0] == "fragments" else step for step in MESSAGES]


def conversation(fragmenting: bool = True) -> tuple[list[list[Any]], list[Any]]:
    messages = MESSAGES if fragmenting else UNFRAGMENTED
    steps = [*messages, *[["receive"]] * len(messages)]
    return steps, [None] * len(messages) + WANTED


def agreed_on(channel: PicowsChannel) -> Parameters | None:
    """What the response says, with what RFC 7692 section 7.1 says of what is not in it."""
    response = channel.transport.response
    assert response is not None
    values = response.headers.getall("Sec-WebSocket-Extensions", [])
    if not values:
        return None
    name, *rest = (part.strip() for part in ",".join(values).split(";"))
    assert name == "permessage-deflate"
    found = parameters()
    for part in rest:
        key, equals, value = part.partition("=")
        assert key in found
        found[key] = int(value) if equals else True
    return found


def both(ours: Parameters, theirs: Parameters) -> Parameters:
    return {
        name: ours[name] or theirs[name]
        if name.endswith("takeover")
        else min(ours[name], theirs[name])
        for name in NAMES
    }


class OneClient(Picows):
    """Our server; `outcome` is the channel of its client, once that is gone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.outcome: asyncio.Future[PicowsChannel] = asyncio.get_running_loop().create_future()

    async def answered(self, channel: Any, path: str) -> None:
        try:
            await answer(channel)
            self.outcome.set_result(channel)
        except Exception as error:
            self.outcome.set_exception(error)


def options_for(ours: Parameters, assemble: bool, net: Any) -> dict[str, Any]:
    return {
        "permessage_deflate": PerMessageDeflate(**ours, threshold=0, level=9, memory_level=9),
        "assemble_messages": assemble,
        "use_aiofastnet": net.use_aiofastnet,
    }


@pytest.fixture
def peer(name: str, peers: Callable[[str], Peer]) -> Peer:
    """Started before the test's loop, which looks at what it leaves open."""
    return peers(name)


@pytest.fixture
def aiohttp(peers: Callable[[str], Peer]) -> Peer:
    return peers("aiohttp")


async def our_client(
    peer: Peer, net: Any, ours: Parameters, theirs: Parameters, assemble: bool
) -> Parameters | None:
    """At a peer's server; returns what was agreed on."""
    path = f"/{next(numbers)}"
    url = await peer.deflating_url(theirs, path)
    channel = await Picows(**options_for(ours, assemble, net)).connect(url, None)
    steps, results = conversation()
    steps.append(["close", 1000, ""])
    assert await run_steps(channel, steps) == [*results, [1000, ""]], (ours, theirs)
    assert (await peer.closed(path))[0] == 1000
    return agreed_on(channel)


async def our_server(
    peer: Peer, net: Any, ours: Parameters, theirs: Parameters, assemble: bool
) -> Parameters | None:
    """With a peer's client."""
    server = OneClient(**options_for(ours, assemble, net))
    port = await server.serve(None)
    try:
        steps, results = conversation(peer.name != "aiohttp")
        steps.append(["close", 1000, ""])
        got = await peer.converse(net.url(port), steps, theirs)
        assert got[:-1] == results, (ours, theirs)
        assert got[-1][0] == 1000
        channel = await server.outcome
        await channel.transport.wait_disconnected()
    finally:
        await server.servers[0].shutdown(timeout=1)
    return agreed_on(channel)


@once
@both_modes
@pytest.mark.parametrize("name", ["websockets", "wsproto"])
@pytest.mark.time_limit(120)
async def test_line_29_our_client(net: Any, peer: Peer, assemble: bool) -> None:
    for ours, theirs in pairs():
        agreement = await our_client(peer, net, ours, theirs, assemble)
        wanted = both(ours, theirs)
        if peer.name == "wsproto":
            # As a server it takes the windows that it is offered, whatever it was told.
            wanted.update({name: ours[name] for name in NAMES if name.endswith("bits")})
        assert agreement == wanted


@once
@both_modes
@pytest.mark.parametrize("name", ["websockets", "wsproto"])
@pytest.mark.time_limit(120)
async def test_line_29_our_server(net: Any, peer: Peer, assemble: bool) -> None:
    for ours, theirs in pairs():
        agreement = await our_server(peer, net, ours, theirs, assemble)
        assert agreement == both(ours, theirs)


@once
@both_modes
async def test_line_29_our_client_at_aiohttp(net: Any, aiohttp: Peer, assemble: bool) -> None:
    """It takes what it is asked for and adds nothing."""
    for ours in EVERY:
        agreement = await our_client(aiohttp, net, ours, PLAIN, assemble)
        asked = ("server_no_context_takeover", "server_max_window_bits")
        assert agreement == {**PLAIN, **{name: ours[name] for name in asked}}


@once
@both_modes
@pytest.mark.time_limit(120)
async def test_line_29_our_server_with_aiohttp(net: Any, aiohttp: Peer, assemble: bool) -> None:
    """Of its client the server's window can be chosen."""
    for number, ours in enumerate(EVERY):
        theirs = parameters(bits=(9, 11, 12, 13, 15)[number % 5])
        agreement = await our_server(aiohttp, net, ours, theirs, assemble)
        assert agreement == both(ours, theirs)


@both_modes
@pytest.mark.parametrize("name", ["websockets", "aiohttp"])
async def test_on_every_loop_and_transport(net: Any, peer: Peer, assemble: bool) -> None:
    """As users have it: True here, the other library's own settings there."""
    ours = Picows(
        permessage_deflate=True, assemble_messages=assemble, use_aiofastnet=net.use_aiofastnet
    )
    path = f"/{next(numbers)}"
    channel = await ours.connect(peer.url(net.tls, path), net.client_ssl)
    steps, results = conversation()
    steps.append(["close", 1000, ""])
    assert await run_steps(channel, steps) == [*results, [1000, ""]]
    assert (await peer.closed(path))[0] == 1000
    assert agreed_on(channel) is not None


@once
@both_modes
@pytest.mark.parametrize("name", ["websockets"])
async def test_a_window_of_8(net: Any, peer: Peer, assemble: bool) -> None:
    """A server that allows its client no more: ours sends as it is, and inflates what it gets."""
    theirs = parameters(client_bits=8)
    agreement = await our_client(peer, net, PLAIN, theirs, assemble)
    assert agreement == theirs


# -- Chromium --------------------------------------------------------------------------------------

# It offers client_max_window_bits without a value, and nothing else.
SCRIPT = """
    const whole = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const part = whole.slice(0, 300);
    const messages = [part, part, "", "gr\\u00fc\\u00dfe", whole, whole];
    const results = [];
    for (const port of ports) {
        const socket = new WebSocket(location.protocol.replace("http", "ws") + "//127.0.0.1:"
            + port + "/talk");
        socket.binaryType = "arraybuffer";
        const closed = new Promise((resolve) => { socket.onclose = (event) =>
            resolve([event.code, event.wasClean]); });
        const got = [];
        await new Promise((resolve) => {
            socket.onopen = () => { for (const each of messages) socket.send(each); };
            socket.onmessage = (event) => {
                got.push(event.data);
                if (got.length === messages.length) resolve();
            };
            closed.then(resolve);
        });
        socket.close(1000);
        const digests = [];
        for (const each of got) {
            const bytes = typeof each === "string" ? new TextEncoder().encode(each)
                : new Uint8Array(each);
            const sha = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
            digests.push(Array.from(sha, (b) => b.toString(16).padStart(2, "0")).join(""));
        }
        results.push([socket.extensions, digests, await closed]);
    }
    return results;
"""
WHOLE = far(40_000, 1)
IN_CHROMIUM = [WHOLE[:300], WHOLE[:300], b"", "grüße".encode(), WHOLE, WHOLE]


async def talk_to_chromium(here: Browser, every: list[Parameters], assemble: bool) -> None:
    async with here.visit() as visit:
        sites = [Site(**options_for(ours, assemble, here.net)) for ours in every]
        ports = [await site.serve(here.context) for site in sites]
        try:
            data = base64.b64encode(WHOLE).decode()
            results = await visit.run(SCRIPT, ports=ports, data=data)
            for ours, site, result in zip(every, sites, results, strict=True):
                extensions, digests, closed = result
                assert digests == [hashlib.sha256(each).hexdigest() for each in IN_CHROMIUM], ours
                assert closed == [1000, True]
                assert await site.closed.get() == (1000, "")
                (channel,) = site.channels
                await channel.transport.wait_disconnected()
                assert agreed_on(channel) == ours
                assert [each.strip() for each in extensions.split(";")] == [
                    "permessage-deflate",
                    *(part.strip() for part in said_by(channel)),
                ]
        finally:
            for site in sites:
                await site.servers[0].shutdown(timeout=1)


def said_by(channel: PicowsChannel) -> list[str]:
    assert channel.transport.response is not None
    return channel.transport.response.headers["Sec-WebSocket-Extensions"].split(";")[1:]


@once
@both_modes
@pytest.mark.parametrize("part", range(7))
async def test_line_29_chromium(browser: Browser, assemble: bool, part: int) -> None:  # noqa: F811
    await talk_to_chromium(browser, EVERY[part::7], assemble)


@both_modes
async def test_chromium_on_every_loop_and_transport(
    browser: Browser,  # noqa: F811
    assemble: bool,
) -> None:
    every = [PLAIN, parameters(True, 9, True, 10), parameters(False, 12, False, 12)]
    await talk_to_chromium(browser, every, assemble)
