"""Subprotocols (RFC 6455 sections 1.9 and 4): the server chooses one of those that the client
offers, or none; a client takes nothing else. The rules field by field are in tests/handshake/.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from aio.traffic import Recorder

from picows import (
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidStatusError,
    WSMsgType,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from raw_peer import RawPeer, RawServer, field, in_thread, raw_connect

NAME = "Sec-WebSocket-Protocol"
# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))

# What the client sends (fields of that name), what the server has, in the order of its liking; what
# comes out of it.
NEGOTIATIONS: list[tuple[list[str], list[str], str | None]] = [
    (["chat"], ["chat"], "chat"),
    (["v1, v2, v3"], ["v3", "v2"], "v3"),
    (["v1,v2"], ["v2"], "v2"),
    (["v1", "v2, v3"], ["v3"], "v3"),
    (["v1"], ["v2"], None),
    (["Chat"], ["chat"], None),  # with case: section 11.5 registers names as they are
    (["v10.stomp"], ["v10.stomp"], "v10.stomp"),
    ([], ["chat"], None),
]


class Site:
    """A server that knows some subprotocols; as the guide's example does it."""

    def __init__(self, known: list[str]) -> None:
        self.known = known
        self.offered: list[str] = []
        self.listeners: list[Recorder] = []

    def route(self, request: WSUpgradeRequest) -> Any:
        fields = request.headers.getall(NAME, [])
        self.offered = [name.strip() for each in fields for name in each.split(",")]
        self.listeners.append(
            Recorder(lambda transport, frame: transport.send(frame.msg_type, frame))
        )
        chosen = next((name for name in self.known if name in self.offered), None)
        if chosen is None:
            return self.listeners[-1]
        response = WSUpgradeResponse.create_101_response({NAME: chosen})
        return WSUpgradeResponseWithListener(response, self.listeners[-1])


@pytest.mark.parametrize(("offered", "known", "chosen"), NEGOTIATIONS)
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_one_of_those_that_were_offered_is_chosen_or_none(
    net: Any, offered: list[str], known: list[str], chosen: str | None
) -> None:
    """Both sides say which, and the connection works either way: none is no error."""
    site = Site(known)
    server = await net.serve(site.route)
    fields = [(NAME, each) for each in offered]
    transport, listener = await net.connect(Recorder, server, extra_headers=fields)
    transport.send(WSMsgType.TEXT, b"x")
    await listener.until_frames(1)
    assert site.offered == [name.strip() for each in offered for name in each.split(",")]
    wanted = [] if chosen is None else [chosen]
    ours = site.listeners[0].transport
    for each in (transport, ours):
        assert each.response.headers.getall(NAME, []) == wanted
        assert each.request.headers.getall(NAME, []) == offered
    transport.disconnect()
    await transport.wait_disconnected()
    await site.listeners[0].until_gone()
    await server.shutdown()


REPLIES: list[tuple[list[str], list[bytes]]] = [
    # Nobody asked for any.
    ([], [b"chat"]),
    ([], [b""]),
    # Another one.
    (["v1, v2"], [b"v3"]),
    (["v1, v2"], [b"V1"]),
    (["v1, v2"], [b"v"]),
    (["v10"], [b"v1"]),
    # More than one, though each was offered.
    (["v1, v2"], [b"v1, v2"]),
    (["v1, v2"], [b"v1", b"v2"]),
    (["v1, v2"], [b"v1", b"v1"]),
    # None at all.
    (["v1"], [b""]),
    (["v1"], [b"v1;"]),
]


@pytest.mark.parametrize(("offered", "reply"), REPLIES)
@pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None,))
async def test_a_reply_that_was_not_asked_for_is_an_error(
    net: Any, offered: list[str], reply: list[bytes]
) -> None:
    """WSInvalidHeaderError; no listener is made, no frame is sent, the connection is closed."""
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    def script(peer: RawPeer) -> None:
        lines = [NAME.encode() + b": " + each for each in reply]
        peer.accept_upgrade(*lines)
        assert peer.recv_all() == b""

    async with RawServer(script, net.server_ssl) as server:
        with pytest.raises(WSInvalidHeaderError) as caught:
            fields = [(NAME, each) for each in offered]
            await net.connect(factory, server.url(), extra_headers=fields)
    assert caught.value.name == NAME
    assert caught.value.response is not None
    assert caught.value.response.status == 101
    assert isinstance(caught.value, WSHandshakeError)
    assert made == []


@one
async def test_what_a_server_of_ours_was_not_asked_for_it_does_not_send(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A router that chooses by itself is at fault: a 500, and a line in the log; a client of ours
    gets no broken 101.
    """
    caplog.set_level(logging.INFO, "picows")
    served = Recorder()

    def route(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_101_response({NAME: "chat"})
        return WSUpgradeResponseWithListener(response, served)

    server = await net.serve(route)
    for fields in ({}, {NAME: "Chat, v1"}):
        caplog.clear()
        with pytest.raises(WSInvalidStatusError) as caught:
            await net.connect(Recorder, server, extra_headers=fields)
        assert caught.value.response is not None
        assert caught.value.response.status == 500
        assert NAME not in caught.value.response.headers
        assert "subprotocol" in caplog.text
    assert served.events == []
    await server.shutdown()


@one
@pytest.mark.parametrize("offer", ["v1, v1", "v1,, v2", "a b", "v1;", '"v1"', "", ","])
async def test_an_offer_that_is_no_list_of_tokens(net: Any, offer: str) -> None:
    """RFC 6455 section 4.1, 10.: distinct tokens. A server that chooses none serves such a client,
    or refuses it, but does not fall over; nothing of it comes back.
    """

    def ask(port: int) -> bytes:
        with raw_connect(port) as peer:
            return peer.request_upgrade(f"{NAME}: {offer}".encode())

    site = Site(["v3"])
    server = await net.serve(site.route)
    head = await in_thread(ask, server.sockets[0].getsockname()[1])
    assert head.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 400 "))
    assert field(head, NAME.encode()) is None
    for listener in site.listeners:
        if listener.events:
            await listener.until_gone()
    await server.shutdown()
