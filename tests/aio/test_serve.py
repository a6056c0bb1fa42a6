"""ws_create_server over real sockets: what the router's results become on the wire, clients that
stall, and the server object.

Which heads are refused is tests/handshake/; here one of each kind, as a peer sees it. Raw clients
end within raw_peer.TIMEOUT, so a server that forgets to close a connection fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest

import loops
from picows import (
    PICOWS_DEBUG_LL,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)
from raw_peer import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawPeer,
    encode_close,
    encode_frame,
    field,
    in_thread,
    raw_connect,
    upgrade_request,
)

# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
tls_only = pytest.mark.net(tls=(True,))

MASK = b"\x11\x22\x33\x44"
# Long enough for TCP, TLS and half a handshake on a busy machine; each such test waits for it once.
SHORT = 0.4 * loops.TIME_FACTOR

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Listener(WSListener):
    def __init__(self) -> None:
        self.events: list[str | bytes] = []
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.connected = asyncio.Event()
        self.disconnected = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.events.append("connected")
        self.connected.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.events.append(frame.get_payload_as_bytes())
        self.frames.put_nowait(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.events.append("disconnected")
        self.disconnected.set()


class Echo(Listener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


def port_of(server: Any) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def exchange(port: int, context: ssl.SSLContext | None, *pieces: bytes) -> bytes:
    """Send it, and return everything up to the server's end of the stream."""
    with raw_connect(port, context) as peer:
        for piece in pieces:
            peer.send(piece)
        return peer.recv_all()


async def ask(net: Any, server: Any, *pieces: bytes) -> tuple[bytes, bytes]:
    """The head and the body of the answer to it, which ends the connection."""
    data: bytes = await in_thread(exchange, port_of(server), net.client_ssl, *pieces)
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


@contextlib.asynccontextmanager
async def serving(net: Any, factory: Any, **kwargs: Any) -> AsyncIterator[Any]:
    """A server that is shut down with the test, whatever clients there still are."""
    server = await net.serve(factory, **kwargs)
    try:
        yield server
    finally:
        server.close()
        server.abort_clients()
        await server.wait_closed()


async def connect_raw(net: Any, server: Any, *extra: bytes, then: bytes = b"") -> RawPeer:
    def connect() -> RawPeer:
        peer = raw_connect(port_of(server), net.client_ssl)
        peer.request_upgrade(*extra, then=then)
        return peer

    peer: RawPeer = await in_thread(connect)
    return peer


# -- the first frames, the end of the stream (lines 2, 3) ------------------------------------------


async def test_frames_in_the_same_segment_as_the_request(net: Any) -> None:
    listener = Echo()
    second = encode_frame(TEXT, b"second", mask=MASK)
    async with serving(net, lambda request: listener) as server:
        first = encode_frame(TEXT, b"first", mask=MASK) + second[:5]
        with await connect_raw(net, server, then=first) as peer:
            assert (await in_thread(peer.recv_frame)).payload == b"first"
            await in_thread(peer.send, second[5:])
            assert (await in_thread(peer.recv_frame)).payload == b"second"
        await listener.disconnected.wait()
    assert listener.events == ["connected", b"first", b"second", "disconnected"]


@pytest.mark.time_limit(10)
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"], ids=["before", "inside"])
async def test_end_of_stream_in_the_handshake_ends_the_connection_at_once(
    net: Any, sent: bytes
) -> None:
    def client(port: int) -> bytes:
        with raw_connect(port, net.client_ssl) as peer:
            peer.send(sent)
            if isinstance(peer.sock, ssl.SSLSocket):
                with contextlib.suppress(OSError):  # the server may have been faster
                    peer.sock = peer.sock.unwrap()
            with contextlib.suppress(OSError):
                peer.end_sending()
            return peer.recv_all()

    called: list[WSUpgradeRequest] = []
    async with serving(net, called.append, websocket_handshake_timeout=None) as server:
        assert await in_thread(client, port_of(server)) == b""
    assert not called


@pytest.mark.time_limit(10)
async def test_end_of_stream_right_behind_the_request(net: Any) -> None:
    listener = Listener()
    async with serving(net, lambda request: listener) as server:
        peer = await connect_raw(net, server, then=encode_frame(TEXT, b"last", mask=MASK))
        peer.close()
        await listener.disconnected.wait()
    assert listener.events == ["connected", b"last", "disconnected"]


# -- the router ------------------------------------------------------------------------------------


def with_response(response: WSUpgradeResponse) -> WSUpgradeResponseWithListener:
    return WSUpgradeResponseWithListener(response, None)


ROUTES: dict[str, tuple[Any, bytes, bytes | None]] = {
    # what the router returns, the status line, the body (None: some text of ours)
    "none": (lambda: None, b"404 Not Found", None),
    "health": (
        lambda: with_response(WSUpgradeResponse.create_ok_response(b"fine", {"X-Load": "3"})),
        b"200 OK",
        b"fine",
    ),
    "redirect": (
        lambda: with_response(
            WSUpgradeResponse.create_redirect_response(307, "wss://example.com/")
        ),
        b"307 Temporary Redirect",
        b"",
    ),
    "forbidden": (
        lambda: with_response(WSUpgradeResponse.create_error_response(403, b"not you")),
        b"403 Forbidden",
        b"not you",
    ),
    "unknown status": (
        lambda: with_response(WSUpgradeResponse.create_error_response(599)),
        b"599 ",
        b"",
    ),
    "no content": (
        lambda: with_response(
            WSUpgradeResponse(b"HTTP/1.1", 204, WSUpgradeResponse.create_ok_response().headers)
        ),
        b"204 No Content",
        b"",
    ),
}


@pytest.mark.parametrize("asked", ["upgrade", "plain"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_what_the_router_returns_is_sent_and_the_connection_closed(
    net: Any, route: str, asked: str
) -> None:
    make, status, body = ROUTES[route]
    requests: list[WSUpgradeRequest] = []

    def router(request: WSUpgradeRequest) -> Any:
        requests.append(request)
        return make()

    async with serving(net, router) as server:
        sent = GET if asked == "plain" else upgrade_request(path=b"/health")
        head, got = await ask(net, server, sent)
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 " + status
    assert field(head, b"Connection") == b"close"
    if body is None:
        assert got
    else:
        assert got == body
    expected_length = None if route == "no content" else b"%d" % len(got)
    assert field(head, b"Content-Length") == expected_length
    if route == "health":
        assert field(head, b"X-Load") == b"3"
    if route == "redirect":
        assert field(head, b"Location") == b"wss://example.com/"
    (request,) = requests
    assert (request.method, request.path, request.version) == (b"GET", b"/health", b"HTTP/1.1")
    assert request.headers["HOST"] == "localhost"


@one
@pytest.mark.parametrize("route", ROUTES)
async def test_head_gets_the_head_alone(net: Any, route: str) -> None:
    make, status, body = ROUTES[route]
    async with serving(net, lambda request: make()) as server:
        head, got = await ask(net, server, GET.replace(b"GET", b"HEAD"))
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 " + status
    assert got == b""
    if body:
        # RFC 9110 section 8.6: what a GET would have got.
        assert field(head, b"Content-Length") == b"%d" % len(body)


@one
async def test_head_is_never_upgraded(net: Any) -> None:
    listener = Listener()
    async with serving(net, lambda request: listener) as server:
        request = upgrade_request().replace(b"GET", b"HEAD")
        head, body = await ask(net, server, request)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == b""
    assert not listener.events


@one
async def test_a_101_with_headers_of_the_router(net: Any) -> None:
    listener = Listener()

    def router(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        assert request.headers["Sec-WebSocket-Protocol"] == "v1, v2"
        fields = {"Sec-WebSocket-Protocol": "v2", "Set-Cookie": "a=b"}
        response = WSUpgradeResponse.create_101_response(fields)
        return WSUpgradeResponseWithListener(response, listener)

    async with serving(net, router) as server:
        transport, _ = await net.connect(
            Listener, server, extra_headers={"Sec-WebSocket-Protocol": "v1, v2"}
        )
        assert transport.response.headers["sec-websocket-protocol"] == "v2"
        assert transport.response.headers["set-cookie"] == "a=b"
        assert listener.transport.response.headers["Sec-WebSocket-Protocol"] == "v2"
        assert listener.transport.request.headers["sec-websocket-protocol"] == "v1, v2"
        transport.disconnect()
        await transport.wait_disconnected()


@one
async def test_a_subprotocol_that_was_not_offered_is_not_sent(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "picows")

    def router(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": "v3"})
        return WSUpgradeResponseWithListener(response, Listener())

    async with serving(net, router) as server:
        head, _ = await ask(net, server, upgrade_request(b"Sec-WebSocket-Protocol: v1"))
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"v3" not in head
    assert "subprotocol" in caplog.text


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, StopIteration])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_router_that_raises_is_a_500_that_tells_nothing(
    net: Any, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def router(request: WSUpgradeRequest) -> Listener:
        raise error("the password is hunter2")

    async with serving(net, router) as server:
        for asked in (GET, upgrade_request()):
            head, body = await ask(net, server, asked)
            assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
            assert field(head, b"Connection") == b"close"
            for secret in (b"hunter2", error.__name__.encode(), b"router"):
                assert secret not in head + body
        assert server.is_serving()
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == 2
    assert logged[0].name == "picows.server"
    assert "hunter2" in str(logged[0].exc_info[1])


@one
@pytest.mark.parametrize(
    "nonsense",
    [42, "listener", Listener, object(), [Listener()], WSUpgradeResponse.create_ok_response(b"x")],
    ids=lambda each: type(each).__name__,
)
async def test_a_router_that_returns_nonsense_is_a_500(
    net: Any, nonsense: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "picows")
    async with serving(net, lambda request: nonsense) as server:
        head, _ = await ask(net, server, upgrade_request())
        assert head.startswith(b"HTTP/1.1 500 ")
    assert "listener" in caplog.text


@one
async def test_a_response_that_cannot_be_sent_is_a_500(net: Any) -> None:
    """Responses are mutable: what the constructors refuse was put in since."""

    def router(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_ok_response()
        response.headers["X"] = "1\r\nSet-Cookie: admin=1"
        return with_response(response)

    async with serving(net, router) as server:
        head, body = await ask(net, server, GET)
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"admin" not in head + body


# -- refusals --------------------------------------------------------------------------------------

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
REFUSALS: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"\x16\x03\x01\x00\xa5\x01\x00\x00", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "no host": (upgrade_request().replace(b"Host: localhost\r\n", b""), 400),
    "two hosts": (upgrade_request(b"Host: b"), 400),
    "not ASCII": (upgrade_request(b"X: \xff"), 400),
    "folded": (upgrade_request(b"X: a\r\n b"), 400),
    "with a body": (upgrade_request(b"Content-Length: 5", path=b"/") + b"hello", 400),
    "Content-Length: +0": (upgrade_request(b"Content-Length: +0"), 400),
    "chunked": (upgrade_request(b"Transfer-Encoding: chunked"), 400),
    "no upgrade": (GET, 400),
    "notupgrade": (
        upgrade_request().replace(b"Connection: Upgrade", b"Connection: notupgrade"),
        400,
    ),
    "short key": (upgrade_request(key=b"c2hvcnQ="), 400),
    "post": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 405),
    "version 12": (
        upgrade_request().replace(b"Version: 13", b"Version: 12"),
        426,
    ),
    "16 KiB": (upgrade_request(b"X: " + b"x" * 17_000), 431),
    "129 fields": (upgrade_request(*[b"X: 1"] * 129), 431),
    "HTTP/1.0": (GET.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
}


@pytest.mark.parametrize("refused", REFUSALS)
@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,))
async def test_a_refusal_on_the_wire(
    net: Any, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "picows")
    sent, status = REFUSALS[refused]
    listeners: list[Listener] = []

    def router(request: WSUpgradeRequest) -> Listener:
        listeners.append(Listener())
        return listeners[-1]

    async with serving(net, router) as server:
        head, body = await ask(net, server, sent)
    assert head.startswith(b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode()))
    assert b"close" in (field(head, b"Connection") or b"")
    assert body
    assert field(head, b"Content-Length") == b"%d" % len(body)
    if status == 426:
        assert field(head, b"Sec-WebSocket-Version") == b"13"
    if status == 405:
        assert field(head, b"Allow") == b"GET, HEAD"
    assert not any(listener.events for listener in listeners)
    assert [record.name for record in caplog.records] == ["picows.server"]


async def test_a_refused_client_is_told_before_the_connection_closes(net: Any) -> None:
    """On every transport: the answer is flushed, then the stream ends."""
    body = b"x" * 300_000
    response = WSUpgradeResponse.create_error_response(503, body)
    async with serving(net, lambda request: with_response(response)) as server:
        _, got = await ask(net, server, upgrade_request())
    assert got == body


async def test_a_request_in_single_bytes_with_a_token_list(net: Any) -> None:
    listener = Listener()
    request = upgrade_request().replace(
        b"Connection: Upgrade", b"connection: keep-alive, UPGRADE\r\nConnection: x"
    )

    def client(port: int) -> bytes:
        with raw_connect(port, net.client_ssl) as peer:
            for index in range(len(request)):
                peer.send(request[index : index + 1])
            return peer.recv_head()

    async with serving(net, lambda request: listener) as server:
        assert (await in_thread(client, port_of(server))).startswith(b"HTTP/1.1 101 ")
        await listener.disconnected.wait()
    assert listener.events == ["connected", "disconnected"]


# -- one absolute deadline (line 7) ----------------------------------------------------------------


async def test_a_client_that_says_nothing_is_cut_off(net: Any) -> None:
    async with serving(
        net, lambda request: Listener(), websocket_handshake_timeout=SHORT
    ) as server:
        assert await ask(net, server) == (b"", b"")


async def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(net: Any) -> None:
    def client(port: int) -> None:
        with raw_connect(port, net.client_ssl) as peer:
            peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            # 5,000 of them would be 50 seconds, beyond the time limit of the test.
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                for _ in range(5000):
                    peer.send(b"x")
                    time.sleep(0.01)

    async with serving(
        net, lambda request: Listener(), websocket_handshake_timeout=SHORT
    ) as server:
        await in_thread(client, port_of(server))


@tls_only
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half"])
async def test_a_client_that_does_not_finish_its_tls_handshake_is_cut_off(
    net: Any, sent: bytes
) -> None:
    async with serving(
        net, lambda request: Listener(), websocket_handshake_timeout=SHORT
    ) as server:
        await in_thread(exchange, port_of(server), None, sent)
        # Others are served.
        transport, _ = await net.connect(Listener, server)
        transport.disconnect()
        await transport.wait_disconnected()
    # The loops report such a client in their own ways.
    net.loop_errors.clear()


@tls_only
@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", GET], ids=["half", "no TLS"])
async def test_a_tls_handshake_that_is_cut_off_disturbs_nobody(net: Any, sent: bytes) -> None:
    def client(port: int) -> None:
        with raw_connect(port) as peer:
            peer.send(sent)

    async with serving(net, lambda request: Echo()) as server:
        transport, listener = await net.connect(Listener, server)
        await in_thread(client, port_of(server))
        transport.send(WSMsgType.TEXT, b"alive?")
        assert await listener.frames.get() == b"alive?"
        transport.disconnect()
        await transport.wait_disconnected()
    net.loop_errors.clear()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_refused_client_that_does_not_read_is_cut_off(net: Any) -> None:
    """It leaves its answer, more than the kernel buffers, unread; the deadline ends that too."""
    size = 16_000_000
    response = WSUpgradeResponse.create_error_response(503, bytes(size))

    def client(port: int) -> int:
        with raw_connect(port, net.client_ssl) as peer:
            peer.send(upgrade_request())
            cut_off.wait()
            return len(peer.recv_all())

    cut_off = threading.Event()
    async with serving(
        net, lambda request: with_response(response), websocket_handshake_timeout=SHORT
    ) as server:
        task = asyncio.ensure_future(in_thread(client, port_of(server)))
        try:
            # Nothing but time can tell: three times the deadline.
            await asyncio.sleep(3 * SHORT)
        finally:
            cut_off.set()
        assert await task < size


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_the_deadline_does_not_end_an_upgraded_connection(net: Any) -> None:
    async with serving(net, lambda request: Echo(), websocket_handshake_timeout=SHORT) as server:
        transport, listener = await net.connect(Listener, server, websocket_handshake_timeout=SHORT)
        await asyncio.sleep(1.5 * SHORT)
        transport.send(WSMsgType.TEXT, b"alive?")
        assert await listener.frames.get() == b"alive?"
        transport.disconnect()
        await transport.wait_disconnected()


# -- the server object -----------------------------------------------------------------------------


async def test_the_server_object(net: Any) -> None:
    server = await net.serve(lambda request: Echo())
    assert server.is_serving()
    assert server.get_loop() is asyncio.get_running_loop()
    (sock,) = server.sockets
    assert sock.getsockname()[0] == "127.0.0.1"
    port = port_of(server)
    server.close()
    assert not server.is_serving()
    assert server.sockets == ()
    server.close()
    await server.wait_closed()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await net.connect(Listener, net.url(port))
    for refused in (server.start_serving, server.serve_forever):
        with pytest.raises(RuntimeError, match="closed"):
            await refused()


async def test_close_lets_clients_live_and_wait_closed_does_not_wait_for_them(net: Any) -> None:
    """Line 34: asyncio's own server waits for connections from Python 3.12 on."""
    server = await net.serve(lambda request: Echo())
    transport, listener = await net.connect(Listener, server)
    server.close()
    await asyncio.wait_for(server.wait_closed(), 5 * loops.TIME_FACTOR)
    transport.send(WSMsgType.TEXT, b"alive?")
    assert await listener.frames.get() == b"alive?"
    transport.send_close(1000)
    await listener.frames.get()
    transport.disconnect()
    await transport.wait_disconnected()


@one
async def test_wait_closed_waits_for_close_and_may_be_cancelled(net: Any) -> None:
    server = await net.serve(lambda request: Echo())
    waiters = [asyncio.ensure_future(server.wait_closed()) for _ in range(2)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.wait(waiters[:1])
    assert not waiters[1].done()
    assert server.is_serving()
    server.close()
    await waiters[1]


async def test_start_serving_false(net: Any) -> None:
    server = await net.serve(lambda request: Echo(), start_serving=False)
    assert not server.is_serving()
    with contextlib.ExitStack() as cleanup:
        task = asyncio.ensure_future(server.serve_forever())
        cleanup.callback(task.cancel)
        while not server.is_serving():
            await asyncio.sleep(0)
        transport, _ = await net.connect(Listener, server)
        transport.disconnect()
        await transport.wait_disconnected()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    await server.wait_closed()


async def test_serve_forever_cancelled_with_live_clients(net: Any) -> None:
    server = await net.serve(lambda request: Echo())
    transport, listener = await net.connect(Listener, server)
    task = asyncio.ensure_future(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already"):
        await server.serve_forever()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5 * loops.TIME_FACTOR)
    assert done, "serve_forever hangs on a live client"
    assert task.cancelled()
    assert not server.is_serving()
    transport.send(WSMsgType.TEXT, b"alive?")
    assert await listener.frames.get() == b"alive?"
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@one
async def test_serve_forever_ends_when_somebody_closes_the_server(net: Any) -> None:
    server = await net.serve(lambda request: Echo())
    task = asyncio.ensure_future(server.serve_forever())
    await asyncio.sleep(0)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_async_with(net: Any) -> None:
    async with await net.serve(lambda request: Echo()) as server:
        transport, listener = await net.connect(Listener, server)
    assert not server.is_serving()
    transport.send(WSMsgType.TEXT, b"alive?")
    assert await listener.frames.get() == b"alive?"
    transport.disconnect()
    await transport.wait_disconnected()


# -- shutdown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1001, 4321])
async def test_shutdown_with_peers_that_answer(net: Any, code: int) -> None:
    served: list[Listener] = []

    def router(request: WSUpgradeRequest) -> Listener:
        served.append(Listener())  # one that does nothing about a CLOSE
        return served[-1]

    async def client() -> Listener:
        transport, listener = await net.connect(Echo, server)
        await transport.wait_disconnected()
        assert transport.close_handshake.recv.code == code
        assert transport.close_handshake.recv_then_sent is True
        assert isinstance(listener, Listener)
        return listener

    server = await net.serve(router)
    clients = [asyncio.ensure_future(client()) for _ in range(5)]
    while len(served) < 5:
        await asyncio.sleep(0)
    await (server.shutdown(timeout=None) if code == 1001 else server.shutdown(code, None))
    assert not server.is_serving()
    assert [listener.events[-1] for listener in served] == ["disconnected"] * 5
    for listener in await asyncio.gather(*clients):
        assert listener.events == ["connected", code.to_bytes(2, "big"), "disconnected"]
    await server.shutdown()  # once more does no harm


async def test_shutdown_cuts_off_peers_that_do_not_answer(net: Any) -> None:
    """One does not answer, one does not even read what it was sent before, one is not upgraded."""
    served: list[Listener] = []

    def router(request: WSUpgradeRequest) -> Listener:
        served.append(Listener())
        return served[-1]

    server = await net.serve(router)
    half = await in_thread(raw_connect, port_of(server), net.client_ssl)
    await in_thread(half.send, b"GET / HT")
    silent = await connect_raw(net, server)
    deaf = await connect_raw(net, server)
    with half, silent, deaf:
        for listener in served:
            await listener.connected.wait()
        for _ in range(16):
            served[1].transport.send(WSMsgType.BINARY, bytes(1024 * 1024))
        started = asyncio.get_running_loop().time()
        await server.shutdown(timeout=SHORT)
        assert asyncio.get_running_loop().time() - started >= SHORT * 0.9
        assert [listener.events for listener in served] == [["connected", "disconnected"]] * 2
        assert await in_thread(half.recv_all) == b""
        frame = await in_thread(silent.recv_frame)
        assert (frame.opcode, frame.payload) == (CLOSE, b"\x03\xe9")
        assert await in_thread(silent.recv_all) == b""
        await in_thread(deaf.recv_all)


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_shutdown_behind_a_close_of_the_peer(net: Any) -> None:
    """The closing handshake is complete with ours: nothing is left to wait for."""
    listener = Listener()
    server = await net.serve(lambda request: listener)
    with await connect_raw(net, server) as peer:
        await in_thread(peer.send, encode_close(1000, mask=MASK))
        await listener.frames.get()
        task = asyncio.ensure_future(server.shutdown(timeout=None))
        frame = await in_thread(peer.recv_frame)
        assert (frame.opcode, frame.payload) == (CLOSE, b"\x03\xe9")
        assert await in_thread(peer.recv_all) == b""
        peer.close()
        await task
    assert listener.events[-1] == "disconnected"


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_shutdown_cancelled_cuts_off_at_once(net: Any) -> None:
    listener = Listener()
    server = await net.serve(lambda request: listener)
    with await connect_raw(net, server) as peer:
        await listener.connected.wait()
        task = asyncio.ensure_future(server.shutdown(timeout=None))
        assert (await in_thread(peer.recv_frame)).opcode == CLOSE
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert listener.events == ["connected", "disconnected"]
        assert await in_thread(peer.recv_all) == b""


@tls_only
async def test_shutdown_and_a_client_in_the_middle_of_its_tls_handshake(net: Any) -> None:
    """It must not become a client of a server that is gone."""
    served: list[Listener] = []

    def router(request: WSUpgradeRequest) -> Listener:
        served.append(Listener())
        return served[-1]

    def finish_late(sock: socket.socket) -> bytes:
        with contextlib.suppress(OSError):
            with net.client_ssl.wrap_socket(sock, server_hostname="localhost") as late:
                late.sendall(upgrade_request())
                answer: bytes = late.recv(100)
                return answer
        return b""

    server = await net.serve(router)
    address = ("127.0.0.1", port_of(server))
    with await in_thread(socket.create_connection, address, 5) as sock:
        # Accepted, when somebody behind it is.
        transport, _ = await net.connect(Listener, server)
        transport.disconnect()
        await transport.wait_disconnected()
        await server.shutdown()
        assert await in_thread(finish_late, sock) == b""
    assert len(served) == 1
    net.loop_errors.clear()


@one
@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"code": 1005}, ValueError, "close code 1005"),
        ({"code": 999}, ValueError, "close code 999"),
        ({"code": "1001"}, TypeError, "close_code must be an int"),
        ({"timeout": -1}, ValueError, "timeout must be"),
        ({"timeout": "1"}, TypeError, "timeout must be"),
    ],
)
async def test_wrong_arguments_of_shutdown_do_nothing(
    net: Any, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    async with serving(net, lambda request: Echo()) as server:
        with pytest.raises(error, match=match):
            await server.shutdown(**arguments)
        assert server.is_serving()


@pytest.mark.parametrize("graceful", [True, False])
async def test_close_clients_and_abort_clients(net: Any, graceful: bool) -> None:
    """The server goes on; what was sent before is flushed, or dropped."""
    served: list[Listener] = []

    def router(request: WSUpgradeRequest) -> Listener:
        served.append(Listener())
        return served[-1]

    async with serving(net, router) as server:
        size = 16 * 1024 * 1024
        with await connect_raw(net, server) as peer:
            await served[0].connected.wait()
            for _ in range(16):
                served[0].transport.send(WSMsgType.BINARY, bytes(size // 16))
            if graceful:
                server.close_clients()
            else:
                server.abort_clients()
            assert served[0].transport.is_disconnected
            got = await in_thread(peer.recv_all)
            assert (len(got) == size + 16 * 10) is graceful
        await served[0].disconnected.wait()
        transport, _ = await net.connect(Listener, server)
        transport.disconnect()
        await transport.wait_disconnected()
        await served[1].disconnected.wait()


# -- parameters (refused ones: test_parameters.py) -------------------------------------------------


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_kwargs_go_to_create_server(net: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            await ws_create_server(
                Listener,
                "127.0.0.1",
                taken.getsockname()[1],
                use_aiofastnet=net.use_aiofastnet,
            )
    given = socket.create_server(("127.0.0.1", 0))
    server = await ws_create_server(
        lambda request: Echo(), sock=given, backlog=5, use_aiofastnet=net.use_aiofastnet
    )
    transport, _ = await net.connect(Listener, server)
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@one
async def test_secrets_do_not_reach_the_log(net: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(PICOWS_DEBUG_LL, "picows")
    async with serving(net, lambda request: None) as server:
        secrets = [b"Cookie: session=hunter2", b"Authorization: Bearer hunter2"]
        await ask(net, server, upgrade_request(*secrets, path=b"/?token=hunter2"))
        await ask(net, server, upgrade_request(*secrets, b"X: \xff", path=b"/?token=hunter2"))
    assert caplog.records
    assert "hunter2" not in caplog.text


@one
async def test_logger_name(net: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(PICOWS_DEBUG_LL)
    for given, expected in ((None, "picows.server"), ("feed", "picows.feed")):
        caplog.clear()
        listener = Listener()
        async with serving(net, lambda request: listener, logger_name=given) as server:
            with await connect_raw(net, server) as peer:
                await in_thread(peer.send, encode_frame(PING, b"p", mask=MASK))
                assert (await in_thread(peer.recv_frame)).opcode == PONG
            await listener.disconnected.wait()
        names = {record.name for record in caplog.records if record.name != "asyncio"}
        assert names == {expected}
