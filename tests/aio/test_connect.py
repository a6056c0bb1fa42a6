"""ws_connect over real sockets: every way that an opening handshake goes, and what is left of it.

What a server answers byte by byte is tests/handshake/test_client.py; here is what needs a socket:
the ends of a stream, deadlines, cancellation, TLS. That no socket, task or timer is left is checked
behind every test (loops.py); a server that never hears the end of ours would hang (raw_peer.py).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gc
import logging
import select
import socket
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest

import loops
import picows
from picows import (
    PICOWS_DEBUG_LL,
    WSFrame,
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidMessageError,
    WSInvalidStatusError,
    WSListener,
    WSMsgType,
    WSParsedURL,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)
from raw_peer import CLOSE, PING, PONG, TEXT, RawPeer, RawServer, encode_frame, field

# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
plain = pytest.mark.net(tls=(False,))
tls_only = pytest.mark.net(tls=(True,))

# Long enough for TCP, TLS and half a handshake on a busy machine; each such test waits for it once.
SHORT = 0.4 * loops.TIME_FACTOR


class Listener(WSListener):
    def __init__(self) -> None:
        self.events: list[str | bytes] = []
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.events.append("connected")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.events.append(frame.get_payload_as_bytes())
        self.frames.put_nowait(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.events.append("disconnected")


def answer(*pieces: bytes, then_wait: bool = True) -> Callable[[RawPeer], None]:
    """A script: read the request, send this; then wait until the client goes, or close."""

    def script(peer: RawPeer) -> None:
        peer.recv_head()
        for piece in pieces:
            peer.send(piece)
        if then_wait:
            peer.recv_all()

    return script


# -- the first frames (line 3) ---------------------------------------------------------------------


async def test_frames_in_the_same_segment_as_the_101(net: Any) -> None:
    second = encode_frame(TEXT, b"second")

    def script(peer: RawPeer) -> None:
        first = encode_frame(TEXT, b"first") + encode_frame(PING, b"ping") + second[:4]
        peer.accept_upgrade(then=first)
        # The PONG tells that what came with the 101 was worked off.
        assert peer.recv_frame()[:2] == (PONG, b"ping")
        peer.send(second[4:])
        peer.recv_all()

    async with RawServer(script, net.server_ssl) as server:
        transport, listener = await net.connect(Listener, server.url())
        assert await listener.frames.get() == b"first"
        assert await listener.frames.get() == b"second"
        transport.disconnect()
        await transport.wait_disconnected()
    assert listener.events == ["connected", b"first", b"second", "disconnected"]


async def test_a_101_in_single_bytes(net: Any) -> None:
    def script(peer: RawPeer) -> None:
        head = peer.recv_head()
        key = field(head, b"Sec-WebSocket-Key") or b""
        from raw_peer import accept_key

        response = (
            b"HTTP/1.1 101\r\nupgrade: WebSocket\r\nConnection: keep-alive, UPGRADE\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
        )
        for index in range(len(response)):
            peer.send(response[index : index + 1])
        peer.send_frame(TEXT, b"first")
        peer.recv_all()

    async with RawServer(script, net.server_ssl) as server:
        transport, listener = await net.connect(Listener, server.url())
        assert await listener.frames.get() == b"first"
        transport.disconnect()
        await transport.wait_disconnected()


# -- the end of the stream (line 2) ----------------------------------------------------------------


@pytest.mark.time_limit(10)
@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", WSHandshakeError),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgr", WSInvalidMessageError),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nhalf of it", WSInvalidStatusError),
        (b"HTTP/1.1 503 Busy\r\n\r\nhalf of it", WSInvalidStatusError),
    ],
    ids=["before", "inside", "in the body", "end of the body"],
)
async def test_end_of_stream_in_the_handshake_is_an_error_at_once(
    net: Any, sent: bytes, error: type[WSHandshakeError]
) -> None:
    async with RawServer(answer(sent, then_wait=False), net.server_ssl) as server:
        with pytest.raises(WSHandshakeError) as caught:
            # Without a deadline nothing else could end it.
            await net.connect(Listener, server.url(), websocket_handshake_timeout=None)
    assert type(caught.value) is error
    if error is WSInvalidStatusError:
        assert caught.value.raw_body == b"half of it"
        assert caught.value.response is not None
        assert caught.value.response.status == 503
    elif sent:
        assert caught.value.raw_header == sent


@pytest.mark.time_limit(10)
async def test_end_of_stream_right_behind_the_101_is_a_disconnect(net: Any) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=encode_frame(TEXT, b"last"))

    async with RawServer(script, net.server_ssl) as server:
        transport, listener = await net.connect(Listener, server.url())
        await transport.wait_disconnected()
    assert listener.events == ["connected", b"last", "disconnected"]
    assert transport.is_disconnected


@pytest.mark.time_limit(10)
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 101 Swi"], ids=["before", "inside"])
@plain
async def test_a_reset_in_the_handshake_is_an_error_at_once(net: Any, sent: bytes) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_head()
        peer.send(sent)
        peer.reset()

    async with RawServer(script) as server:
        with pytest.raises((ConnectionResetError, WSHandshakeError)):
            await net.connect(Listener, server.url(), websocket_handshake_timeout=None)


# -- one absolute deadline (line 7) ----------------------------------------------------------------


async def test_the_deadline_ends_a_peer_that_is_silent(net: Any) -> None:
    async with RawServer(answer(), net.server_ssl) as server:
        started = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await net.connect(Listener, server.url(), websocket_handshake_timeout=SHORT)
        assert time.monotonic() - started >= SHORT * 0.9


async def test_the_deadline_ends_a_peer_that_sends_a_byte_now_and_then(net: Any) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_head()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
        # 5,000 of them would be 50 seconds, beyond the time limit of the test.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for _ in range(5000):
                peer.send(b"x")
                time.sleep(0.01)

    async with RawServer(script, net.server_ssl) as server:
        with pytest.raises(asyncio.TimeoutError):
            await net.connect(Listener, server.url(), websocket_handshake_timeout=SHORT)


@tls_only
async def test_the_deadline_covers_a_tls_handshake_that_never_comes(net: Any) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_all()

    async with RawServer(script) as server:
        with pytest.raises(asyncio.TimeoutError):
            await net.connect(Listener, net.url(server.port), websocket_handshake_timeout=SHORT)


@one
async def test_a_kwarg_cannot_lengthen_the_deadline(net: Any, certificates: Any) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_all()

    async with RawServer(script) as server:
        with pytest.raises(asyncio.TimeoutError):
            await ws_connect(
                Listener,
                f"wss://127.0.0.1:{server.port}/",
                ssl_context=certificates.client,
                websocket_handshake_timeout=SHORT,
                ssl_handshake_timeout=60.0,
            )


# -- cancellation (line 8) -------------------------------------------------------------------------


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "refused"])
async def test_cancelled_after_each_iteration_of_the_loop(net: Any, accepted: bool) -> None:
    """TCP, TLS, the upgrade and the way back from it: each await is hit by one of the rounds."""
    served: list[Listener] = []

    def route(request: WSUpgradeRequest) -> Listener | None:
        if not accepted:
            return None
        served.append(Listener())
        return served[-1]

    async def attempt(listener: Listener) -> WSTransport:
        try:
            transport, _ = await net.connect(lambda: listener, server)
            return transport
        finally:
            seen[:] = listener.events

    seen: list[str | bytes] = []
    server = await net.serve(route)
    for iterations in range(1000):
        listener = Listener()
        task = asyncio.ensure_future(attempt(listener))
        for _ in range(iterations):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        # Not `await task`: the time limit's own cancellation would look the same.
        done, _ = await asyncio.wait([task], timeout=3 * loops.TIME_FACTOR)
        if not done:
            task.cancel()
            pytest.fail(f"cancelled after {iterations} iterations, it hangs")
        assert task.cancelled()
        # Not later, but by the time that it raises.
        assert seen in ([], ["connected", "disconnected"])
    assert task.done()
    assert iterations > 3
    if accepted:
        transport = task.result()
        transport.disconnect()
        await transport.wait_disconnected()
    else:
        assert isinstance(task.exception(), WSInvalidStatusError)
    await server.shutdown()
    # The loops report a client that breaks off its TLS handshake in their own ways.
    net.loop_errors.clear()
    # The other end has seen each of them go.
    assert [each.events for each in served] == [["connected", "disconnected"]] * len(served)


@pytest.mark.time_limit(10)
async def test_cancelled_while_the_server_is_silent(net: Any) -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def script(peer: RawPeer) -> None:
        peer.recv_head()
        loop.call_soon_threadsafe(asked.set)
        assert peer.recv_all() == b""  # hangs unless the client closes

    async with RawServer(script, net.server_ssl) as server:
        connecting = net.connect(Listener, server.url(), websocket_handshake_timeout=None)
        task = asyncio.ensure_future(connecting)
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@tls_only
@pytest.mark.time_limit(10)
async def test_cancelled_in_the_tls_handshake(net: Any) -> None:
    loop = asyncio.get_running_loop()
    said_hello = asyncio.Event()

    def script(peer: RawPeer) -> None:
        assert peer.recv_exactly(1) == b"\x16"  # a TLS handshake record
        loop.call_soon_threadsafe(said_hello.set)
        peer.recv_all()

    async with RawServer(script) as server:
        connecting = net.connect(Listener, net.url(server.port), websocket_handshake_timeout=None)
        task = asyncio.ensure_future(connecting)
        await said_hello.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- refusals (lines 4, 11) ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Service Unavailable"])
async def test_a_body_that_arrives_later_is_on_the_exception(net: Any, status: bytes) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_head()
        peer.send(b"HTTP/1.1 ", status, b"\r\nRetry-After: 7\r\nContent-Length: 10\r\n\r\n")
        time.sleep(0.02)  # another segment, another read
        peer.send(b"slow ")
        time.sleep(0.02)
        peer.send(b"down!")
        peer.recv_all()

    async with RawServer(script, net.server_ssl) as server:
        with pytest.raises(WSInvalidStatusError) as caught:
            await net.connect(Listener, server.url())
    response = caught.value.response
    assert response is not None
    assert response.status == HTTPStatus(int(status[:3]))
    assert isinstance(response.status, HTTPStatus)
    assert response.headers["retry-after"] == "7"
    assert response.body == caught.value.raw_body == b"slow down!"
    assert caught.value.raw_header is not None
    assert caught.value.raw_header.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert status[:3].decode() in str(caught.value)


async def test_a_deadline_that_passes_while_the_body_is_coming(net: Any) -> None:
    """What is known by then is said; a TimeoutError would hide the status."""
    head = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 1000\r\n\r\n"
    async with RawServer(answer(head, b"slow"), net.server_ssl) as server:
        with pytest.raises(WSInvalidStatusError) as caught:
            await net.connect(Listener, server.url(), websocket_handshake_timeout=SHORT)
    assert caught.value.response is not None
    assert caught.value.response.status == 429
    assert caught.value.raw_body == b"slow"


@one
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 3000000\r\n"])
async def test_a_body_is_read_up_to_one_mebibyte(net: Any, framing: bytes) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_head()
        peer.send(b"HTTP/1.1 503 Busy\r\n", framing, b"\r\n")
        with contextlib.suppress(ConnectionError):  # the client has had enough
            for _ in range(30):
                peer.send(b"x" * 100_000)

    async with RawServer(script) as server:
        with pytest.raises(WSInvalidStatusError) as caught:
            await net.connect(Listener, server.url(), websocket_handshake_timeout=None)
    assert caught.value.raw_body == b"x" * 1024 * 1024


@one
@pytest.mark.parametrize(
    ("status", "known"),
    [(200, True), (204, True), (301, True), (307, True), (404, True), (599, False)],
)
async def test_a_status_other_than_101(net: Any, status: int, known: bool) -> None:
    head = b"HTTP/1.1 %d\r\nLocation: /\r\nContent-Length: 0\r\n\r\n" % status
    async with RawServer(answer(head)) as server:
        with pytest.raises(WSInvalidStatusError) as caught:
            await net.connect(Listener, server.url())
    response = caught.value.response
    assert response is not None
    assert response.status == status
    assert isinstance(response.status, HTTPStatus) is known


@one
@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x03\x00\x00",
        b"HTTP/1.1 101 OK\r\nb\xc3\xa9: 1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_an_error_at_once(net: Any, sent: bytes) -> None:
    async with RawServer(answer(sent)) as server:
        with pytest.raises(WSInvalidMessageError) as caught:
            await net.connect(Listener, server.url(), websocket_handshake_timeout=None)
    assert caught.value.response is None


@one
@pytest.mark.parametrize(
    "extra",
    [b"Sec-WebSocket-Protocol: nobody-asked", b"Sec-WebSocket-Extensions: permessage-deflate"],
)
async def test_what_nobody_asked_for_in_the_101_is_an_error(net: Any, extra: bytes) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(extra)
        assert peer.recv_all() == b""  # no frame was sent, no CLOSE either

    async with RawServer(script) as server:
        with pytest.raises(WSInvalidHeaderError) as caught:
            await net.connect(Listener, server.url())
    assert caught.value.name.encode() == extra.partition(b":")[0]
    assert caught.value.response is not None
    assert caught.value.response.status == 101


# -- the listener factory --------------------------------------------------------------------------


def accept_and_wait(peer: RawPeer) -> None:
    peer.accept_upgrade()
    peer.recv_all()


class WithArguments(Listener):
    def __init__(self, request: WSUpgradeRequest, response: WSUpgradeResponse) -> None:
        super().__init__()
        self.request = request
        self.response = response


class MadeOfArguments(WSListener):
    """As WithArguments, in the other place where a class may ask for them."""

    def __new__(cls, request: WSUpgradeRequest, response: WSUpgradeResponse) -> MadeOfArguments:
        assert (request.path, response.status) == (b"/path?query=1", 101)
        return super().__new__(cls)


class WithDefaults(Listener):
    def __init__(self, name: str = "x", *more: int, key: int = 1, **rest: int) -> None:
        super().__init__()
        assert (name, more, key, rest) == ("x", (), 1, {})


def make_listener(request: WSUpgradeRequest, response: WSUpgradeResponse) -> Listener:
    return WithArguments(request, response)


@one
@pytest.mark.parametrize(
    "factory",
    [
        WSListener,
        Listener,
        lambda: Listener(),
        WithDefaults,
        WithArguments,
        MadeOfArguments,
        make_listener,
        lambda request, response: WithArguments(request, response),
        functools.partial(make_listener),
        functools.partial(lambda extra, request, response: make_listener(request, response), 1),
    ],
)
async def test_the_factory_is_called_as_its_signature_says(net: Any, factory: Any) -> None:
    async with RawServer(accept_and_wait) as server:
        transport, listener = await net.connect(factory, server.url("/path?query=1"))
        assert isinstance(listener, WSListener)
        if isinstance(listener, WithArguments):
            assert listener.request is transport.request
            assert listener.response is transport.response
        assert transport.request.path == b"/path?query=1"
        assert transport.response.status == 101
        transport.disconnect()
        await transport.wait_disconnected()


@one
@pytest.mark.parametrize("factory", [lambda request: Listener(), lambda a, b, c: Listener()])
async def test_a_factory_of_another_signature_is_refused(net: Any, factory: Any) -> None:
    with pytest.raises(TypeError, match=r"ws_listener_factory must take .*\(request, response\)"):
        await net.connect(factory, net.url(1))


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize(
    "error",
    [TypeError, LookupError, asyncio.CancelledError, asyncio.TimeoutError, StopIteration],
)
async def test_what_the_factory_raises_reaches_the_caller(
    net: Any, error: type[BaseException]
) -> None:
    """Also a TypeError that looks as if the call had failed, and what a future does not take."""

    def factory(request: WSUpgradeRequest, response: WSUpgradeResponse) -> Listener:
        raise error("the secret of the factory")

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        assert b"secret" not in peer.recv_all()

    async with RawServer(script, net.server_ssl) as server:
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            await net.connect(factory, server.url(), websocket_handshake_timeout=None)
    if error is StopIteration:
        # A coroutine cannot raise it: PEP 479 makes it a RuntimeError.
        assert isinstance(caught.value, RuntimeError)
    else:
        assert type(caught.value) is error
        assert caught.value.args == ("the secret of the factory",)


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("nonsense", [None, 42, Listener, object()], ids=repr)
async def test_a_factory_that_returns_no_listener(net: Any, nonsense: object) -> None:
    async with RawServer(accept_and_wait, net.server_ssl) as server:
        with pytest.raises(TypeError, match="ws_listener_factory must return a WSListener"):
            await net.connect(lambda: nonsense, server.url())


# -- parameters (refused ones: test_parameters.py) -------------------------------------------------


@one
async def test_a_refused_header_value_is_not_repeated(net: Any) -> None:
    with pytest.raises(ValueError, match="Authorization") as caught:
        await net.connect(Listener, net.url(1), extra_headers={"Authorization": "hunter2\n"})
    assert "hunter2" not in str(caught.value)


@plain
async def test_failures_of_the_system_come_through_as_they_are(net: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await net.connect(Listener, net.url(port))


@plain
async def test_kwargs_go_to_create_connection(net: Any) -> None:
    peername = []

    def script(peer: RawPeer) -> None:
        peername.append(peer.sock.getpeername()[0])
        accept_and_wait(peer)

    async with RawServer(script) as server:
        transport, _ = await net.connect(Listener, server.url(), local_addr=("127.0.0.9", 0))
        transport.disconnect()
        await transport.wait_disconnected()
    assert peername == ["127.0.0.9"]


@one
async def test_socket_options_for_low_latency_are_set(net: Any) -> None:
    async with RawServer(accept_and_wait) as server:
        transport, _ = await net.connect(Listener, server.url())
        sock = transport.underlying_transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        transport.disconnect()
        await transport.wait_disconnected()


# -- TLS (line 51) ---------------------------------------------------------------------------------


@tls_only
@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_certificate_that_does_not_fit(net: Any, certificates: Any, wrong: str) -> None:
    context = certificates.issue("other.example") if wrong == "name" else net.server_ssl
    client = net.client_ssl if wrong == "name" else None  # the system's authorities
    async with RawServer(lambda peer: None, context) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await net.connect(Listener, net.url(server.port), ssl_context=client)
    assert server.tls_failure is not None


@tls_only
async def test_server_hostname_goes_through(net: Any, certificates: Any) -> None:
    async with RawServer(accept_and_wait, certificates.issue("other.example")) as server:
        transport, _ = await net.connect(
            Listener, net.url(server.port), server_hostname="other.example"
        )
        assert transport.is_secure
        assert transport.request.headers["Host"] == f"127.0.0.1:{server.port}"
        transport.disconnect(graceful=False)
        await transport.wait_disconnected()


@tls_only
@pytest.mark.time_limit(10)
@pytest.mark.parametrize(
    "sent",
    [b"", b"\x16\x03\x03\x01\x00\x02", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["nothing", "half a record", "no TLS"],
)
async def test_a_tls_handshake_that_is_cut_off(net: Any, sent: bytes) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_some()
        peer.send(sent)

    async with RawServer(script) as server:
        with pytest.raises(OSError):  # noqa: PT011
            await net.connect(Listener, net.url(server.port), websocket_handshake_timeout=None)
    # aiofastnet tells the loop's exception handler as well.
    net.loop_errors.clear()


@tls_only
@pytest.mark.time_limit(10)
@pytest.mark.parametrize("end", ["FIN", "RST", "no TLS"])
async def test_a_server_that_ends_ahead_of_tls(net: Any, end: str) -> None:
    """
    Whatever the loop sees of it first: its transport closes between TCP and TLS, or inside of TLS's
    first step, of which uvloop makes a handshake without end, or one that has succeeded.
    """

    def script(peer: RawPeer) -> None:
        if end == "RST":
            peer.reset()
        elif end == "no TLS":
            peer.send(b"\xff" * 300)

    def ended(url: WSParsedURL) -> socket.socket:
        assert url.port is not None
        sock = socket.create_connection(("127.0.0.1", url.port))
        # Until the end is there.
        select.select([sock], [], [])
        return sock

    async with RawServer(script) as server:
        for socket_factory in [None, ended] * 10:
            with pytest.raises(OSError):  # noqa: PT011
                await net.connect(
                    Listener,
                    net.url(server.port),
                    websocket_handshake_timeout=None,
                    socket_factory=socket_factory,
                )
    # aiofastnet tells the loop's exception handler as well.
    net.loop_errors.clear()


@tls_only
@pytest.mark.time_limit(10)
async def test_close_notify_right_behind_the_data(net: Any) -> None:
    """What came ahead of it is delivered, and it is no error."""

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=encode_frame(TEXT, b"one"))
        peer.send(encode_frame(TEXT, b"x" * 100_000), encode_frame(CLOSE, b"\x03\xe8"))
        assert isinstance(peer.sock, ssl.SSLSocket)
        with contextlib.suppress(OSError):  # the client need not answer it
            peer.sock.unwrap()

    async with RawServer(script, net.server_ssl) as server:
        transport, listener = await net.connect(Listener, server.url())
        await transport.wait_disconnected()
    assert listener.events == ["connected", b"one", b"x" * 100_000, b"\x03\xe8", "disconnected"]


# -- URLs and secrets (lines 10, 15) ---------------------------------------------------------------


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_an_ipv6_literal(net: Any) -> None:
    server = await ws_create_server(
        lambda request: Listener(),
        "::1",
        0,
        ssl=net.server_ssl,
        use_aiofastnet=net.use_aiofastnet,
    )
    port = server.sockets[0].getsockname()[1]
    scheme = "wss" if net.tls else "ws"
    transport, _ = await net.connect(Listener, f"{scheme}://[::1]:{port}/")
    assert transport.request.headers["Host"] == f"[::1]:{port}"
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@one
@pytest.mark.parametrize("extra_headers", [None, {"authorization": "Bearer token"}])
async def test_user_and_password_of_the_url(net: Any, extra_headers: Any) -> None:
    heads = []

    def script(peer: RawPeer) -> None:
        heads.append(peer.accept_upgrade())
        peer.recv_all()

    async with RawServer(script) as server:
        url = f"ws://us%40er:pa%3Ass%C3%A9@127.0.0.1:{server.port}/"
        transport, _ = await net.connect(Listener, url, extra_headers=extra_headers)
        transport.disconnect()
        await transport.wait_disconnected()
    (head,) = heads
    basic = b"Basic " + base64.b64encode("us@er:pa:ssé".encode())
    assert field(head, b"Authorization") == (b"Bearer token" if extra_headers else basic)
    assert head.lower().count(b"authorization") == 1
    assert field(head, b"Host") == b"127.0.0.1:%d" % server.port


@one
async def test_extra_headers_are_sent_and_host_replaces_the_generated_one(net: Any) -> None:
    heads = []

    def script(peer: RawPeer) -> None:
        heads.append(peer.accept_upgrade(b"Sec-WebSocket-Protocol: b"))
        peer.recv_all()

    async with RawServer(script) as server:
        given = [
            ("hOsT", "example.com"),
            ("X", "1"),
            ("X", "2"),
            ("Sec-WebSocket-Protocol", "a, b"),
        ]
        transport, _ = await net.connect(Listener, server.url("/p?q=%41"), extra_headers=given)
        assert transport.response.headers["Sec-WebSocket-Protocol"] == "b"
        transport.disconnect()
        await transport.wait_disconnected()
    (head,) = heads
    assert head.startswith(b"GET /p?q=%41 HTTP/1.1\r\n")
    assert head.lower().count(b"\r\nhost:") == 1
    assert field(head, b"Host") == b"example.com"
    assert b"X: 1\r\nX: 2\r\n" in head


@one
@pytest.mark.parametrize("status", [101, 403])
async def test_secrets_do_not_reach_the_debug_log(
    net: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(PICOWS_DEBUG_LL, "picows")

    def route(request: WSUpgradeRequest) -> Any:
        if status == 101:
            return Listener()
        response = WSUpgradeResponse.create_error_response(403, b"no")
        return WSUpgradeResponseWithListener(response, None)

    server = await net.serve(route)
    port = server.sockets[0].getsockname()[1]
    url = f"ws://user:hunter2@127.0.0.1:{port}/feed?depth=5&listenKey=hunter2"
    secrets = {"Cookie": "session=hunter2", "X-API-Key": "hunter2", "X-Plain": "visible"}
    if status == 101:
        transport, _ = await net.connect(Listener, url, extra_headers=secrets)
        transport.disconnect()
        await transport.wait_disconnected()
    else:
        with pytest.raises(WSInvalidStatusError) as caught:
            await net.connect(Listener, url, extra_headers=secrets)
        assert "hunter2" not in repr(caught.value)
    await server.shutdown()
    assert "visible" in caplog.text
    assert "depth=5" in caplog.text
    assert "hunter2" not in caplog.text
    assert base64.b64encode(b"user:hunter2").decode() not in caplog.text


@one
@pytest.mark.parametrize("kind", ["default", "name", "logger", "adapter"])
async def test_logger_name(net: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(PICOWS_DEBUG_LL)
    logger = logging.getLogger("application.feed")
    given, expected = {
        "default": (None, "picows.client"),
        "name": ("feed", "picows.feed"),
        "logger": (logger, "application.feed"),
        "adapter": (logging.LoggerAdapter(logger, {}), "application.feed"),
    }[kind]
    async with RawServer(accept_and_wait) as server:
        transport, _ = await net.connect(Listener, server.url(), logger_name=given)
        transport.send(WSMsgType.TEXT, b"x")
        transport.disconnect()
        await transport.wait_disconnected()
    names = {record.name for record in caplog.records if record.name != "asyncio"}
    assert names == {expected}


# -- memory (line 38) ------------------------------------------------------------------------------


@pytest.mark.net(loops=("asyncio",))
@pytest.mark.parametrize("failure", ["status", "nobody listens", "factory"])
async def test_failed_attempts_leave_nothing_for_the_cycle_collector(
    net: Any, failure: str
) -> None:
    """A client that tries again every second for a week."""

    def factory() -> Listener:
        raise LookupError

    async def attempt(target: Any) -> None:
        try:
            await net.connect(factory, target)
        except (WSInvalidStatusError, ConnectionRefusedError, LookupError):
            return
        raise AssertionError("it was to fail")

    server = await net.serve(lambda request: Listener() if failure == "factory" else None)
    target = 1 if failure == "nobody listens" else server
    await attempt(target)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await attempt(target)
        await asyncio.sleep(0)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        garbage = [type(each).__name__ for each in gc.garbage if is_ours(each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        await server.shutdown()
    assert not garbage


def is_ours(each: object) -> bool:
    module = type(each).__module__
    return isinstance(module, str) and (
        module.startswith(picows.__name__) or isinstance(each, Listener)
    )
