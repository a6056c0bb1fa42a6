"""ws_connect's socket_factory: what it is given, what it may return, and who closes that.

A socket that the factory handed over belongs to ws_connect: whatever ends the attempt, it is
closed. That no other socket, task or timer is left is checked behind every test (loops.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from aio.traffic import Recorder, our_socket, some_iterations

import loops
from picows import (
    WSHandshakeError,
    WSMsgType,
    WSParsedURL,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from raw_peer import TEXT, RawPeer, RawServer, encode_frame, field, in_thread

# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
plain = pytest.mark.net(tls=(False,))
tls_only = pytest.mark.net(tls=(True,))

# Long enough for TCP, TLS and half a handshake on a busy machine; each such test waits for it once.
SHORT = 0.4 * loops.TIME_FACTOR

# From where the factories here connect, so that a server knows their sockets from others.
OURS = "127.0.0.9"


class Factory:
    """Makes a socket for each URL that it is given, and keeps both.

    `connects`: the socket comes back connected.
    """

    def __init__(self, connects: bool = False, **options: int) -> None:
        self.connects = connects
        self.urls: list[WSParsedURL] = []
        self.sockets: list[socket.socket] = []

    def __call__(self, *args: Any, **kwargs: Any) -> socket.socket:
        (url,) = args
        assert not kwargs
        self.urls.append(url)
        sock = socket.socket()
        self.sockets.append(sock)
        sock.bind((OURS, 0))
        if self.connects:
            sock.connect((url.host, url.port))
        return sock

    @property
    def all_closed(self) -> bool:
        return bool(self.sockets) and all(sock.fileno() == -1 for sock in self.sockets)


def accept_and_wait(peer: RawPeer) -> None:
    peer.accept_upgrade()
    peer.recv_all()


def do_nothing(peer: RawPeer) -> None:
    """The client has to go by itself."""
    peer.recv_all()


async def leave(transport: Any) -> None:
    transport.disconnect()
    await transport.wait_disconnected()


@contextlib.contextmanager
def full_server() -> Iterator[int]:
    """The port of a server that does not accept, and whose queue is full: a connection is never
    made, and never refused.
    """
    with contextlib.ExitStack() as cleanup:
        listening = cleanup.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = cleanup.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


# -- what it may be, and what it may return --------------------------------------------------------


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine"])
@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_a_socket_of_the_users(net: Any, is_coroutine: bool, connects: bool) -> None:
    """Messages both ways over it, TLS on top where the URL says so; its end is the transport's."""
    factory = Factory(connects)

    async def coroutine(url: WSParsedURL) -> socket.socket:
        await asyncio.sleep(0)
        return factory(url)

    def echo(transport: Any, frame: Any) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())

    served = Recorder(echo)
    server = await net.serve(lambda request: served)
    transport, listener = await net.connect(
        Recorder, server, socket_factory=coroutine if is_coroutine else factory
    )
    (sock,) = factory.sockets
    assert our_socket(transport).fileno() == sock.fileno()
    assert our_socket(served.transport).getpeername() == sock.getsockname()
    assert sock.getsockname()[0] == OURS
    assert transport.is_secure == net.tls
    for message in (b"small", bytes(1024 * 1024)):
        transport.send(WSMsgType.BINARY, message)
    await listener.until_frames(2)
    assert listener.payloads == [b"small", bytes(1024 * 1024)]
    await leave(transport)
    await some_iterations()
    assert factory.all_closed
    await served.until_gone()
    await server.shutdown()


class WithMethods:
    def method(self, url: WSParsedURL) -> socket.socket:
        return Factory()(url)

    async def coroutine_method(self, url: WSParsedURL) -> socket.socket:
        return Factory()(url)

    @staticmethod
    def with_defaults(url: WSParsedURL, family: int = socket.AF_INET, *rest: int) -> socket.socket:
        assert (family, rest) == (socket.AF_INET, ())
        return Factory()(url)


class WithCoroutineCall:
    async def __call__(self, url: WSParsedURL) -> socket.socket:
        return Factory()(url)


class Awaitable:
    """Neither a coroutine nor a future."""

    def __init__(self, url: WSParsedURL) -> None:
        self.url = url

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return Factory()(self.url)


def returns_a_task(url: WSParsedURL) -> Any:
    return asyncio.ensure_future(WithCoroutineCall()(url))


def returns_a_future(url: WSParsedURL) -> Any:
    future = asyncio.get_running_loop().create_future()
    future.set_result(Factory()(url))
    return future


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
@pytest.mark.parametrize(
    "factory",
    [
        Factory(),
        WithCoroutineCall(),
        WithMethods().method,
        WithMethods().coroutine_method,
        WithMethods.with_defaults,
        Awaitable,
        returns_a_task,
        returns_a_future,
        lambda url: Factory()(url),
        functools.partial(lambda first, url: Factory()(url), 1),
    ],
)
async def test_what_a_factory_may_be(net: Any, factory: Any) -> None:
    callers = []

    def script(peer: RawPeer) -> None:
        callers.append(peer.sock.getpeername()[0])
        accept_and_wait(peer)

    async with RawServer(script) as server:
        transport, _ = await net.connect(Recorder, server.url(), socket_factory=factory)
        await leave(transport)
    assert callers == [OURS]


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine"])
async def test_none_is_the_default_way(net: Any, is_coroutine: bool) -> None:
    """With the keywords of the loop's create_connection."""

    async def coroutine(url: WSParsedURL) -> None:
        calls.append(url)

    def script(peer: RawPeer) -> None:
        callers.append(peer.sock.getpeername()[0])
        accept_and_wait(peer)

    calls: list[WSParsedURL] = []
    callers: list[str] = []
    async with RawServer(script, net.server_ssl) as server:
        transport, _ = await net.connect(
            Recorder,
            server.url(),
            socket_factory=coroutine if is_coroutine else calls.append,
            local_addr=("127.0.0.7", 0),
        )
        await leave(transport)
    assert callers == ["127.0.0.7"]
    assert len(calls) == 1


@one
async def test_it_is_given_the_parsed_url(net: Any) -> None:
    factory = Factory()
    async with RawServer(accept_and_wait) as server:
        url = f"ws://us%65r:pw@127.0.0.1:{server.port}/path?query=%41"
        transport, _ = await net.connect(Recorder, url, socket_factory=factory)
        await leave(transport)
    (given,) = factory.urls
    assert given == WSParsedURL(
        url, "ws", "127.0.0.1", server.port, "/path?query=%41", "user", "pw"
    )


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_ipv6(net: Any, connects: bool) -> None:
    def factory(url: WSParsedURL) -> socket.socket:
        assert (url.host, url.port) == ("::1", port)
        sock = socket.socket(socket.AF_INET6)
        if connects:
            sock.connect((url.host, url.port))
        return sock

    from picows import ws_create_server

    server = await ws_create_server(
        lambda request: Recorder(), "::1", 0, ssl=net.server_ssl, use_aiofastnet=net.use_aiofastnet
    )
    port = server.sockets[0].getsockname()[1]
    scheme = "wss" if net.tls else "ws"
    transport, _ = await net.connect(Recorder, f"{scheme}://[::1]:{port}/", socket_factory=factory)
    assert our_socket(transport).family == socket.AF_INET6
    await leave(transport)
    await server.shutdown()


@one
async def test_a_name_is_looked_up_in_the_family_of_the_socket(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """localhost is ::1 first on many machines, where nobody listens."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo
    families = []

    async def getaddrinfo(*args: Any, family: int, **kwargs: Any) -> Any:
        families.append(family)
        return await resolve(*args, family=family, **kwargs)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    factory = Factory()
    async with RawServer(accept_and_wait) as server:
        url = f"ws://localhost:{server.port}/"
        transport, _ = await net.connect(Recorder, url, socket_factory=factory)
        await leave(transport)
    assert factory.urls[0].host == "localhost"
    assert families == [socket.AF_INET]


@pytest.mark.parametrize("timeout", [None, 5, 0], ids=["blocking", "timeout", "non-blocking"])
@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_the_mode_of_the_socket_does_not_matter(
    net: Any, timeout: float | None, connects: bool
) -> None:
    """Nothing may block the loop afterwards: the server here is served by the same one."""

    def factory(url: WSParsedURL) -> socket.socket:
        sock = Factory(connects)(url)
        sock.settimeout(timeout)
        return sock

    server = await net.serve(lambda request: Recorder())
    transport, _ = await net.connect(Recorder, server, socket_factory=factory)
    assert our_socket(transport).gettimeout() == 0
    await leave(transport)
    await server.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_socket_that_is_connecting(net: Any) -> None:
    def factory(url: WSParsedURL) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((url.host, url.port))
        return sock

    server = await net.serve(lambda request: Recorder())
    transport, _ = await net.connect(Recorder, server, socket_factory=factory)
    await leave(transport)
    await server.shutdown()


async def test_a_connected_socket_of_another_family(net: Any) -> None:
    """A tunnel that somebody else has made: the URL's host is for Host and the certificate."""
    ours, theirs = socket.socketpair()

    def script() -> bytes:
        sock: Any = theirs
        sock.settimeout(10)
        if net.server_ssl is not None:
            sock = net.server_ssl.wrap_socket(theirs, server_side=True)
        with RawPeer(sock) as peer:
            head = peer.accept_upgrade(then=encode_frame(TEXT, b"first"))
            peer.recv_all()
            return head

    url = f"{'wss' if net.tls else 'ws'}://localhost:81/"
    peer = asyncio.ensure_future(in_thread(script))
    transport, listener = await net.connect(Recorder, url, socket_factory=lambda url: ours)
    await listener.until_frames(1)
    assert listener.payloads == [b"first"]
    await leave(transport)
    assert field(await peer, b"Host") == b"localhost:81"
    assert ours.fileno() == -1


# -- options set before connecting -----------------------------------------------------------------


@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_options_that_were_set_before(net: Any, connects: bool) -> None:
    options = [
        (socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
        (socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000),
    ]
    before: list[int] = []

    def factory(url: WSParsedURL) -> socket.socket:
        sock = socket.socket()
        for level, name, value in options:
            sock.setsockopt(level, name, value)
        before.extend(sock.getsockopt(level, name) for level, name, _ in options[:-1])
        if connects:
            sock.connect((url.host, url.port))
        return sock

    async with RawServer(accept_and_wait, net.server_ssl) as server:
        transport, _ = await net.connect(Recorder, server.url(), socket_factory=factory)
        sock = our_socket(transport)
        after = [sock.getsockopt(level, name) for level, name, _ in options]
        # The segment size is what both sides agree on, less what options take.
        assert 900 < after.pop() <= 1000
        assert after == before
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        await leave(transport)


# -- what it must not return -----------------------------------------------------------------------


@one
@pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine"])
@pytest.mark.parametrize(
    "wrong", ["127.0.0.1", b"", 5, 0, False, (), object(), socket.socket], ids=repr
)
async def test_no_socket(net: Any, is_coroutine: bool, wrong: object) -> None:
    async def coroutine(url: WSParsedURL) -> object:
        return wrong

    factory = coroutine if is_coroutine else lambda url: wrong
    with pytest.raises(TypeError, match=r"socket_factory must return a socket\.socket") as caught:
        await net.connect(Recorder, net.url(1), socket_factory=factory)
    assert type(wrong).__name__ in str(caught.value)


@one
async def test_a_generator_is_no_socket(net: Any) -> None:
    def factory(url: WSParsedURL) -> Any:
        yield socket.socket()

    with pytest.raises(TypeError, match=r"socket_factory must return .* not generator"):
        await net.connect(Recorder, net.url(1), socket_factory=factory)


@plain
@pytest.mark.parametrize("kind", ["UDP", "TLS", "Unix"])
async def test_a_socket_of_a_wrong_kind_is_closed(net: Any, certificates: Any, kind: str) -> None:
    """Who handed it over cannot know that it came back to him."""
    sock = socket.socket(
        socket.AF_UNIX if kind == "Unix" else socket.AF_INET,
        socket.SOCK_DGRAM if kind == "UDP" else socket.SOCK_STREAM,
    )
    if kind == "TLS":
        sock = certificates.client.wrap_socket(sock, server_hostname="localhost")
    error, rule = {
        "UDP": (ValueError, "socket_factory must return a SOCK_STREAM socket"),
        "TLS": (TypeError, "socket_factory must return a socket.socket without TLS"),
        "Unix": (ValueError, "socket_factory returned an unconnected Unix socket"),
    }[kind]
    with sock:
        with pytest.raises(error, match=rule):
            await net.connect(Recorder, net.url(1), socket_factory=lambda url: sock)
        assert sock.fileno() == -1


@plain
async def test_a_socket_that_is_closed(net: Any) -> None:
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await net.connect(Recorder, net.url(1), socket_factory=lambda url: sock)


@plain
async def test_a_socket_of_a_family_that_the_host_has_not(net: Any) -> None:
    sock = socket.socket(socket.AF_INET6)
    with pytest.raises(socket.gaierror):
        await net.connect(Recorder, "ws://127.0.0.1:1/", socket_factory=lambda url: sock)
    assert sock.fileno() == -1


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine"])
@pytest.mark.parametrize(
    "error",
    [TypeError, LookupError, OSError, asyncio.TimeoutError, asyncio.CancelledError],
)
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_what_it_raises_reaches_the_caller(
    net: Any, is_coroutine: bool, error: type[BaseException]
) -> None:
    raised = error("of the factory")

    async def coroutine(url: WSParsedURL) -> socket.socket:
        await asyncio.sleep(0)
        raise raised

    def function(url: WSParsedURL) -> socket.socket:
        raise raised

    factory = coroutine if is_coroutine else function
    with pytest.raises(error) as caught:
        await net.connect(Recorder, net.url(1), socket_factory=factory)
    if error is not asyncio.CancelledError:
        assert caught.value is raised


@one
async def test_a_factory_of_another_signature_is_called_all_the_same(net: Any) -> None:
    """Its TypeError is the caller's to see; what takes no argument is not guessed."""
    with pytest.raises(TypeError, match="positional argument"):
        await net.connect(Recorder, net.url(1), socket_factory=lambda: socket.socket())


# -- failures behind it ----------------------------------------------------------------------------


@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_refused(net: Any, connects: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    factory = Factory(connects)
    with pytest.raises(ConnectionRefusedError):
        await net.connect(Recorder, net.url(port), socket_factory=factory)
    if connects:
        # It raised in the factory, whose socket it still is.
        assert not factory.all_closed
        factory.sockets[0].close()
    assert factory.all_closed


@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_the_upgrade_is_refused(net: Any, connects: bool) -> None:
    factory = Factory(connects)
    server = await net.serve(lambda request: None)
    with pytest.raises(WSHandshakeError, match="404"):
        await net.connect(Recorder, server, socket_factory=factory)
    assert factory.all_closed
    await server.shutdown()


@tls_only
@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_a_certificate_that_does_not_fit(net: Any, certificates: Any, connects: bool) -> None:
    factory = Factory(connects)
    async with RawServer(lambda peer: None, certificates.issue("other.example")) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await net.connect(Recorder, server.url(), socket_factory=factory)
    assert factory.all_closed
    net.loop_errors.clear()


@plain
async def test_a_connection_that_was_reset_before(net: Any) -> None:
    def factory(url: WSParsedURL) -> socket.socket:
        sock = socket.create_connection(listening.getsockname())
        sockets.append(sock)
        with RawPeer(listening.accept()[0]) as peer:
            peer.reset()
        return sock

    sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await net.connect(Recorder, net.url(listening.getsockname()[1]), socket_factory=factory)
    assert sockets[0].fileno() == -1


async def test_a_first_write_that_fails_leaves_nothing_with_the_loop(net: Any) -> None:
    """As when the peer resets the connection right after it accepted it.

    The next socket has the same number. If the loop still has the old one under it, the new one is
    not served; if only the number of the old one was closed, the new one is closed with it.
    """
    sockets: list[socket.socket] = []

    def factory(url: WSParsedURL) -> socket.socket:
        sockets.append(Factory(connects=True)(url))
        sockets[-1].shutdown(socket.SHUT_WR)
        return sockets[-1]

    server = await net.serve(lambda request: Recorder())
    try:
        for _ in range(3):
            with pytest.raises(OSError):  # noqa: PT011
                await net.connect(Recorder, server, socket_factory=factory)
            await some_iterations()
            transport, _ = await net.connect(Recorder, server)
            await leave(transport)
        assert [sock.fileno() for sock in sockets] == [-1] * 3
    finally:
        for sock in sockets:
            sock.detach()
        await server.shutdown()
        net.loop_errors.clear()


# -- time and cancellation -------------------------------------------------------------------------


async def test_the_deadline_counts_the_factory(net: Any) -> None:
    cancelled = []

    async def factory(url: WSParsedURL) -> socket.socket:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(url)
            raise
        raise AssertionError

    with pytest.raises(asyncio.TimeoutError):
        await net.connect(
            Recorder, net.url(1), socket_factory=factory, websocket_handshake_timeout=SHORT
        )
    assert len(cancelled) == 1


@plain
async def test_the_deadline_counts_the_connecting(net: Any) -> None:
    factory = Factory()
    with full_server() as port:
        with pytest.raises(asyncio.TimeoutError):
            await net.connect(
                Recorder, net.url(port), socket_factory=factory, websocket_handshake_timeout=SHORT
            )
        assert factory.all_closed


@tls_only
@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_the_deadline_counts_tls(net: Any, connects: bool) -> None:
    factory = Factory(connects)
    async with RawServer(do_nothing) as server:
        with pytest.raises(asyncio.TimeoutError):
            await net.connect(
                Recorder,
                net.url(server.port),
                socket_factory=factory,
                websocket_handshake_timeout=SHORT,
            )
    assert factory.all_closed


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=3 * loops.TIME_FACTOR)
    assert done, "cancelled, it hangs"
    assert task.cancelled()


@pytest.mark.time_limit(10)
async def test_cancelled_in_the_factory(net: Any) -> None:
    running = asyncio.Event()
    ended: list[type[BaseException] | None] = []

    async def factory(url: WSParsedURL) -> socket.socket:
        with socket.socket() as sock:
            running.set()
            try:
                await asyncio.get_running_loop().sock_recv(theirs, 1)
            except BaseException as exc:
                ended.append(type(exc))
                raise
            return sock

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        connecting = net.connect(
            Recorder, net.url(1), socket_factory=factory, websocket_handshake_timeout=None
        )
        task = asyncio.ensure_future(connecting)
        await running.wait()
        await cancel(task)
    assert ended == [asyncio.CancelledError]


@plain
@pytest.mark.time_limit(10)
async def test_cancelled_while_it_connects(net: Any) -> None:
    factory = Factory()
    with full_server() as port:
        connecting = net.connect(
            Recorder, net.url(port), socket_factory=factory, websocket_handshake_timeout=None
        )
        task = asyncio.ensure_future(connecting)
        await some_iterations()
        assert factory.sockets
        assert not factory.all_closed
        await cancel(task)
        assert factory.all_closed


@pytest.mark.net(loops=("asyncio", "asyncio-debug"), tls=(False,))
@pytest.mark.time_limit(10)
async def test_cancelled_in_the_look_up(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        await loop.create_future()

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    factory = Factory()
    connecting = net.connect(
        Recorder, "ws://localhost:1/", socket_factory=factory, websocket_handshake_timeout=None
    )
    task = asyncio.ensure_future(connecting)
    await some_iterations()
    assert not factory.all_closed
    await cancel(task)
    assert factory.all_closed


@tls_only
@pytest.mark.time_limit(10)
@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_cancelled_in_tls(net: Any, connects: bool) -> None:
    loop = asyncio.get_running_loop()
    said_hello = asyncio.Event()

    def script(peer: RawPeer) -> None:
        assert peer.recv_exactly(1) == b"\x16"  # a TLS handshake record
        loop.call_soon_threadsafe(said_hello.set)
        peer.recv_all()

    factory = Factory(connects)
    async with RawServer(script) as server:
        connecting = net.connect(
            Recorder,
            net.url(server.port),
            socket_factory=factory,
            websocket_handshake_timeout=None,
        )
        task = asyncio.ensure_future(connecting)
        await said_hello.wait()
        await cancel(task)
        await some_iterations()
        assert factory.all_closed


@pytest.mark.parametrize("connects", [False, True], ids=["unconnected", "connected"])
async def test_cancelled_after_each_iteration_of_the_loop(net: Any, connects: bool) -> None:
    factory = Factory(connects)

    async def coroutine(url: WSParsedURL) -> socket.socket:
        await asyncio.sleep(0)
        return factory(url)

    server = await net.serve(lambda request: Recorder())
    for iterations in range(1000):
        connecting = net.connect(Recorder, server, socket_factory=coroutine)
        task = asyncio.ensure_future(connecting)
        for _ in range(iterations):
            await asyncio.sleep(0)
        if task.done():
            break
        await cancel(task)
        await some_iterations()
        assert all(sock.fileno() == -1 for sock in factory.sockets), iterations
    assert iterations > 3
    transport, _ = task.result()
    await leave(transport)
    await server.shutdown()
    # The loops report a client that breaks off its TLS handshake in their own ways.
    net.loop_errors.clear()


# -- more than one call ----------------------------------------------------------------------------


async def test_each_redirect_asks_for_a_socket(net: Any) -> None:
    """When the one of the hop before is closed."""

    class Noting(Factory):
        def __call__(self, url: WSParsedURL) -> socket.socket:
            before.append([sock.fileno() for sock in self.sockets])
            return super().__call__(url)

    def route(request: WSUpgradeRequest) -> Any:
        if request.path == b"/new":
            return Recorder()
        response = WSUpgradeResponse.create_redirect_response(302, "/new")
        return WSUpgradeResponseWithListener(response, None)

    before: list[list[int]] = []
    factory = Noting()
    server = await net.serve(route)
    transport, _ = await net.connect(Recorder, net.url(server), socket_factory=factory)
    assert before == [[], [-1]]
    assert our_socket(transport).fileno() == factory.sockets[1].fileno()
    assert [url.path for url in factory.urls] == ["/", "/new"]
    assert [url.url for url in factory.urls] == [net.url(server), net.url(server, "/new")]
    await leave(transport)
    await server.shutdown()


@one
async def test_a_redirect_to_another_server_and_an_old_socket(net: Any) -> None:
    """A factory that looks at nothing hands out the socket of the first hop again: closed."""
    sock = socket.socket()

    def script(peer: RawPeer) -> None:
        peer.recv_head()
        peer.send(b"HTTP/1.1 302\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n")
        peer.recv_all()

    async with RawServer(script) as server:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await net.connect(Recorder, server.url(), socket_factory=lambda url: sock)


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_with_a_proxy_it_is_given_the_proxys_url(net: Any) -> None:
    def proxy(peer: RawPeer) -> None:
        request = peer.recv_head()
        assert request.startswith(b"CONNECT example.test:81 HTTP/1.1\r\n")
        callers.append(peer.sock.getpeername()[0])
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        # It is the server as well.
        accept_and_wait(peer)

    callers: list[str] = []
    factory = Factory()
    async with RawServer(proxy) as server:
        transport, _ = await net.connect(
            Recorder,
            "ws://example.test:81/path",
            proxy=f"http://127.0.0.1:{server.port}",
            socket_factory=factory,
        )
        await leave(transport)
    assert callers == [OURS]
    (given,) = factory.urls
    assert (given.scheme, given.host, given.port) == ("http", "127.0.0.1", server.port)
    assert factory.all_closed


@one
async def test_it_is_not_called_for_parameters_that_are_wrong(net: Any) -> None:
    calls: list[WSParsedURL] = []
    with pytest.raises(ValueError, match="max_frame_size"):
        await net.connect(Recorder, net.url(1), socket_factory=calls.append, max_frame_size=0)
    assert not calls
