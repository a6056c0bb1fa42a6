"""ws_connect(proxy=...) through real proxies (proxies.py), whose logs prove that they were used,
and through raw ones where a proxy has to be wrong, slow or looked at byte by byte.

That no socket, task or timer is left is checked behind every test (loops.py).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import logging
import os
import re
import select
import shutil
import socket
import ssl
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import proxies as proxies_module
import pytest
from aio.traffic import Recorder, octets, some_iterations
from proxies import FORBIDDEN_HOST, FORBIDDEN_PORT, LOOPBACK, Proxies, Proxy, listening_sockets

import loops
from picows import (
    PICOWS_DEBUG_LL,
    WSCloseCode,
    WSFrame,
    WSHandshakeError,
    WSInvalidURL,
    WSMsgType,
    WSParsedURL,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)
from raw_peer import RawPeer, RawServer, field

KINDS = (
    "http",
    "http-password",
    "https",
    "https-password",
    "socks4",
    "socks5",
    "socks5-password",
    "socks5-danted",
)
SCHEMES = ("http", "https", "socks4", "socks5")

# asyncio's debug mode has its turn in test_cancelled_after_each_iteration_of_the_loop.
both_loops = pytest.mark.net(loops=("asyncio", "uvloop"))
plain = pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
tls_only = pytest.mark.net(loops=("asyncio", "uvloop"), tls=(True,))
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
needs_ipv6 = pytest.mark.skipif("::1" not in LOOPBACK, reason="no ::1 here")

# Long enough for TCP, TLS and half a handshake on a busy machine; each such test waits for it once.
SHORT = 0.4 * loops.TIME_FACTOR


def through(*kinds: str) -> pytest.MarkDecorator:
    """Parametrizes the fixture `proxy`."""
    return pytest.mark.parametrize("proxy", kinds, indirect=True)


@pytest.fixture
def proxy(request: pytest.FixtureRequest, proxies: Proxies) -> Proxy:
    proxy = proxies[request.param]
    proxy.forget()
    return proxy


class Client:
    """ws_connect through proxies, in the combination of `net`."""

    def __init__(self, net: Any, certificates: Any) -> None:
        self.net = net
        self.certificates = certificates

    @property
    def carries_tls_in_tls(self) -> bool:
        is_own = self.net.use_aiofastnet is False and self.net.loop_kind != "uvloop"
        return not is_own or sys.version_info >= (3, 11)

    async def connect(self, url: str, proxy: str, **kwargs: Any) -> Any:
        """The transport and a Recorder."""
        if proxy.startswith("https:"):
            kwargs.setdefault("proxy_ssl_context", self.certificates.client)
            if url.startswith("wss:") and not self.carries_tls_in_tls:
                with pytest.raises(ValueError, match="TLS inside TLS"):
                    await self.net.connect(Recorder, url, proxy=proxy, **kwargs)
                pytest.skip("asyncio's transports carry it from Python 3.11 on")
        return await self.net.connect(Recorder, url, proxy=proxy, **kwargs)

    @contextlib.asynccontextmanager
    async def connected(self, url: str, proxy: str, **kwargs: Any) -> AsyncIterator[Any]:
        """The same, and disconnected at the end."""
        transport, listener = await self.connect(url, proxy, **kwargs)
        try:
            yield transport, listener
        finally:
            transport.disconnect()
            await transport.wait_disconnected()

    def url(self, port: int, host: str = "localhost", path: str = "/") -> str:
        return f"{'wss' if self.net.tls else 'ws'}://{host}:{port}{path}"

    async def visit(self, url: str, proxy: str, **kwargs: Any) -> None:
        """Come and go."""
        async with self.connected(url, proxy, **kwargs):
            pass


@pytest.fixture
def client(net: Any, certificates: Any) -> Client:
    return Client(net, certificates)


def echo(transport: WSTransport, frame: WSFrame) -> None:
    if frame.msg_type == WSMsgType.CLOSE:
        transport.send_close(frame.get_close_code(), frame.get_close_message())
        transport.disconnect()
    else:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


@contextlib.asynccontextmanager
async def serving(
    net: Any,
    route: Callable[[WSUpgradeRequest], Any] = lambda request: Recorder(echo),
    **kwargs: Any,
) -> AsyncIterator[int]:
    """A server of ours, on all that "localhost" may mean; yields its port."""
    kwargs = {"ssl": net.server_ssl, "use_aiofastnet": net.use_aiofastnet, **kwargs}
    sockets = listening_sockets()
    port = sockets[0].getsockname()[1]
    servers = [await ws_create_server(route, sock=sock, **kwargs) for sock in sockets]
    try:
        yield port
    finally:
        for server in servers:
            await server.shutdown()


def address_given(proxy: Proxy) -> str:
    """What a proxy is told of "localhost"."""
    return "127.0.0.1" if proxy.scheme == "socks4" else "localhost"


def encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


@pytest.fixture
def dead_port() -> Iterator[int]:
    """Where nobody listens: bound, so that nobody else can."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


# -- what a connection is for ----------------------------------------------------------------------


@both_loops
@through(*KINDS)
async def test_messages_ping_and_close(client: Client, proxy: Proxy) -> None:
    served: list[Recorder] = []

    def route(request: WSUpgradeRequest) -> Recorder:
        served.append(Recorder(echo))
        return served[-1]

    large = octets(1024 * 1024)
    async with serving(client.net, route) as port:
        url = client.url(port, path="/p?q=1")
        async with client.connected(url, proxy.url()) as (transport, listener):
            assert transport.request.path == b"/p?q=1"
            assert transport.request.headers["Host"] == f"localhost:{port}"
            for message in (b"hello", b"", large):
                transport.send(WSMsgType.BINARY, message)
            transport.send_ping(b"are you there?")
            await listener.until_frames(4)
            transport.send_close(WSCloseCode.OK, b"done")
            await listener.until_frames(5)
        assert listener.payloads == [b"hello", b"", large, b"are you there?", b"\x03\xe8done"]
        (server_side,) = served
        await server_side.until_gone()
        # The server's auto pong has answered the ping.
        assert server_side.payloads == [b"hello", b"", large, b"\x03\xe8done"]
        await proxy.was_asked_for(address_given(proxy), port)


@both_loops
@through("https", "https-password")
async def test_a_proxy_on_tls_is_spoken_to_on_tls(client: Client, proxy: Proxy) -> None:
    async with serving(client.net) as port:
        await client.visit(client.url(port), proxy.url())
        await proxy.logged("TLS accepted", f"CONNECT localhost:{port} HTTP/1.1")


@one
@through("http", "https", "socks5", "socks5-danted")
async def test_many_at_once(client: Client, proxy: Proxy) -> None:
    async with serving(client.net) as port:

        async def attempt(number: int) -> list[bytes]:
            async with client.connected(client.url(port), proxy.url()) as (transport, listener):
                transport.send(WSMsgType.TEXT, b"%d" % number)
                await listener.until_frames(1)
            payloads: list[bytes] = listener.payloads
            return payloads

        answers = await asyncio.gather(*(attempt(number) for number in range(20)))
    assert answers == [[b"%d" % number] for number in range(20)]


# -- who looks up which name -----------------------------------------------------------------------


@pytest.mark.net(loops=("asyncio",))
@through("http", "https", "socks4", "socks5", "socks5-danted")
async def test_the_proxy_looks_up_the_name_of_the_server(
    client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[Any] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        looked_up.append(host)
        return real(host, *args, **kwargs)

    async with serving(client.net) as port:
        # Of the proxy's own name nothing is to be seen here.
        host = "[::1]" if proxy.scheme == "https" else "127.0.0.1"
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        async with client.connected(client.url(port), proxy.url(host)):
            assert ("localhost" in looked_up) is (proxy.scheme == "socks4")


@plain
@through("http", "https", "socks4", "socks5", "socks5-danted")
async def test_a_name_that_nobody_knows(client: Client, proxy: Proxy) -> None:
    url = client.url(1, "nobody-knows-it.invalid")
    if proxy.scheme == "socks4":
        with pytest.raises(socket.gaierror):
            await client.connect(url, proxy.url())
        return
    with pytest.raises(WSHandshakeError) as caught:
        await client.connect(url, proxy.url())
    assert f"localhost:{proxy.port}" in str(caught.value)
    assert "nobody-knows-it.invalid" in str(caught.value)


@plain
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_failures_on_the_way_to_the_proxy_are_the_systems(
    client: Client, dead_port: int, scheme: str
) -> None:
    with pytest.raises(ConnectionRefusedError):
        await client.connect("ws://localhost/", f"{scheme}://127.0.0.1:{dead_port}")
    # The machine's resolver may take its time to say so.
    patience = 60 * loops.TIME_FACTOR
    with pytest.raises(socket.gaierror):
        await client.connect(
            "ws://localhost/",
            f"{scheme}://nobody-knows-it.invalid",
            websocket_handshake_timeout=patience,
        )


# -- IPv6 (line 10) --------------------------------------------------------------------------------


@needs_ipv6
@both_loops
@through("http", "https", "socks4", "socks5-danted")
async def test_a_proxy_at_an_ipv6_address(client: Client, proxy: Proxy) -> None:
    async with serving(client.net) as port:
        async with client.connected(client.url(port), proxy.url("[::1]")) as (transport, listener):
            transport.send(WSMsgType.TEXT, b"hello")
            await listener.until_frames(1)
        await proxy.was_asked_for(address_given(proxy), port)


@needs_ipv6
@both_loops
@through("http", "https", "socks5", "socks5-danted")
async def test_a_server_at_an_ipv6_address(client: Client, proxy: Proxy) -> None:
    async with serving(client.net) as port:
        url = client.url(port, "[::1]")
        async with client.connected(url, proxy.url()) as (transport, listener):
            assert transport.request.headers["Host"] == f"[::1]:{port}"
            transport.send(WSMsgType.TEXT, b"hello")
            await listener.until_frames(1)
        await proxy.was_asked_for("::1", port)


@one
@pytest.mark.parametrize("host", ["[::1]", "[2001:db8::1]", "[::ffff:127.0.0.1]"])
async def test_socks4_has_no_room_for_an_ipv6_address(client: Client, host: str) -> None:
    """What must not happen: that it is sent as a name (SOCKS4A) for the proxy to look up."""
    asked: list[bytes] = []

    def script(peer: RawPeer) -> None:
        asked.append(peer.recv_some())

    async with RawServer(script) as server:
        with pytest.raises((ValueError, WSHandshakeError, OSError)) as caught:
            await client.connect(f"ws://{host}/", f"socks4://127.0.0.1:{server.port}")
        assert "IPv4" in str(caught.value) or isinstance(caught.value, socket.gaierror)
    assert b"".join(asked) == b""


# -- refusals --------------------------------------------------------------------------------------


WRONG = "hunter2"


def check_refusal(exc: WSHandshakeError, proxy: Proxy, host: str, port: int, said: str) -> None:
    """Everything that one looks for: which proxy, where to, what it said; and no password."""
    text = str(exc)
    assert f"{proxy.scheme}://" in text
    assert f"localhost:{proxy.port}" in text
    assert f"{host}:{port}" in text
    assert re.search(said, text), text
    check_secret(exc, WRONG, proxy.password)


def check_secret(exc: BaseException, *secrets: str | None) -> None:
    """Not in the exception, and not in what a traceback shows of it and of its causes."""
    text = "".join(traceback.format_exception(exc)) + repr(exc)
    for secret in filter(None, secrets):
        for spelling in (secret, encoded(secret), encoded(secret).upper()):
            assert spelling not in text


@plain
@through("http-password", "https-password", "socks5-password")
@pytest.mark.parametrize("given", ["wrong", "none"])
async def test_a_wrong_password(client: Client, proxy: Proxy, given: str, dead_port: int) -> None:
    url = client.url(dead_port)
    if given == "wrong":
        address = proxy.url(password=WRONG)
        said = r"\b401\b" if proxy.scheme != "socks5" else "(?i)auth"
    else:
        address = f"{proxy.scheme}://localhost:{proxy.port}"
        said = "407 Proxy Authentication Required" if proxy.scheme != "socks5" else "(?i)auth"
    with pytest.raises(WSHandshakeError) as caught:
        await client.connect(url, address)
    check_refusal(caught.value, proxy, "localhost", dead_port, said)


@plain
@through(*KINDS)
async def test_a_server_that_refuses_the_proxy(
    client: Client, proxy: Proxy, proxies: Proxies, dead_port: int
) -> None:
    said = {
        "http": "500 Unable to connect",
        "https": "500 Unable to connect",
        "socks4": "(?i)rejected or failed",
        "socks5": "(?i)connection refused",
    }[proxy.scheme]
    with pytest.raises(WSHandshakeError) as caught:
        await client.connect(client.url(dead_port), proxy.url(), websocket_handshake_timeout=None)
    check_refusal(caught.value, proxy, "localhost", dead_port, said)
    # microsocks logs what it has connected, nothing else.
    if proxy is not proxies["socks5"] and proxy is not proxies["socks5-password"]:
        await proxy.was_asked_for(address_given(proxy), dead_port)


@plain
@through("http", "https", "socks5-danted")
async def test_a_server_to_which_the_proxy_lets_nobody(client: Client, proxy: Proxy) -> None:
    if proxy.scheme == "socks5":
        host, said = "localhost", "(?i)not allowed"
    else:
        host, said = FORBIDDEN_HOST, "403 Filtered"
    with pytest.raises(WSHandshakeError) as caught:
        await client.connect(client.url(FORBIDDEN_PORT, host), proxy.url())
    check_refusal(caught.value, proxy, host, FORBIDDEN_PORT, said)


@plain
@through("http-password", "socks5-password")
async def test_a_server_that_refuses_the_upgrade(client: Client, proxy: Proxy) -> None:
    """It is the server's answer, and says nothing of the proxy."""
    async with serving(client.net, lambda request: None) as port:
        with pytest.raises(WSHandshakeError) as caught:
            await client.connect(client.url(port), proxy.url())
        assert caught.value.response is not None
        assert caught.value.response.status == 404
        check_secret(caught.value, proxy.password)


# -- raw proxies -----------------------------------------------------------------------------------

GRANTED = {
    "http": b"HTTP/1.1 200 Connection established\r\nVia: 1.1 raw\r\n\r\n",
    "https": b"HTTP/1.1 200 Connection established\r\nVia: 1.1 raw\r\n\r\n",
    "socks4": b"\x00\x5a\x00\x00\x00\x00\x00\x00",
    "socks5": b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
}
SOCKS5_NONE, SOCKS5_PASSWORD = 0, 2  # RFC 1928 section 3


def recv_request(peer: RawPeer, scheme: str, piecewise: bool = False) -> bytes:
    """Be a proxy up to the request for a connection, which is returned with all before it."""

    def send(data: bytes) -> None:
        for piece in pieces(data) if piecewise else (data,):
            peer.send(piece)

    if scheme in ("http", "https"):
        return peer.recv_head()
    if scheme == "socks4":
        return peer.recv_exactly(8) + peer.recv_until(b"\0")
    greeting = peer.recv_exactly(2)
    methods = peer.recv_exactly(greeting[1])
    data = greeting + methods
    if SOCKS5_PASSWORD in methods:
        send(b"\x05\x02")
        user = peer.recv_exactly(2)
        user += peer.recv_exactly(user[1] + 1)
        data += user + peer.recv_exactly(user[-1])
        send(b"\x01\x00")
    else:
        send(b"\x05\x00")
    head = peer.recv_exactly(4)
    if head[3] == 3:
        head += peer.recv_exactly(1)
        return data + head + peer.recv_exactly(head[4] + 2)
    return data + head + peer.recv_exactly((4 if head[3] == 1 else 16) + 2)


def pieces(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


class RawProxy(RawServer):
    """A RawServer as a proxy of this scheme."""

    def __init__(self, scheme: str, script: Callable[[RawPeer], object], certificates: Any) -> None:
        self.scheme = scheme
        super().__init__(script, certificates.server if scheme == "https" else None)

    def url(self, userinfo: str = "") -> str:
        return f"{self.scheme}://{userinfo and userinfo + '@'}localhost:{self.port}"


def grant_and_serve(scheme: str, seen: list[bytes]) -> Callable[[RawPeer], None]:
    """A proxy and, behind it, the server; `seen` gets what each of them was asked."""

    def script(peer: RawPeer) -> None:
        seen.append(recv_request(peer, scheme))
        peer.send(GRANTED[scheme])
        seen.append(peer.accept_upgrade())
        peer.recv_all()

    return script


# -- users and passwords (lines 10, 15) ------------------------------------------------------------

USER, PASSWORD = "us@er", "p:@/?#% &"


@one
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@pytest.mark.parametrize("language", ["ASCII", "UTF-8"])
async def test_user_and_password_are_percent_decoded(
    client: Client, scheme: str, language: str, certificates: Any
) -> None:
    """UTF-8 as in the Authorization of a server: RFC 7617 section 2.1 has no other name for a
    charset. RFC 1929 has none at all.
    """
    user, password = (USER, PASSWORD) if language == "ASCII" else (USER + "ö", PASSWORD + "€")
    seen: list[bytes] = []
    async with RawProxy(scheme, grant_and_serve(scheme, seen), certificates) as raw:
        address = raw.url(f"{encoded(user)}:{encoded(password)}")
        await client.visit("ws://localhost/", address)
    if scheme == "socks5":
        # RFC 1929 section 2
        assert with_length(b"\x01", user, password) in seen[0]
    else:
        method, _, credentials = (field(seen[0], b"Proxy-Authorization") or b"").partition(b" ")
        assert method == b"Basic"
        assert base64.b64decode(credentials) == f"{user}:{password}".encode()


def with_length(head: bytes, *texts: str) -> bytes:
    for text in texts:
        head += bytes([len(text.encode())]) + text.encode()
    return head


@one
async def test_the_user_of_a_socks4_proxy(client: Client, certificates: Any) -> None:
    seen: list[bytes] = []
    async with RawProxy("socks4", grant_and_serve("socks4", seen), certificates) as raw:
        await client.visit("ws://127.0.0.1:1/", raw.url("us%40er"))
    assert seen[0] == b"\x04\x01\x00\x01\x7f\x00\x00\x01us@er\x00"


@one
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_user_without_a_password(client: Client, scheme: str, certificates: Any) -> None:
    """As to a server: with an empty one, and not as if there had been no user."""
    seen: list[bytes] = []
    async with RawProxy(scheme, grant_and_serve(scheme, seen), certificates) as raw:
        await client.visit("ws://localhost/", raw.url("user"))
    basic = b"Basic " + base64.b64encode(b"user:")
    assert field(seen[0], b"Proxy-Authorization") == basic


@one
@pytest.mark.parametrize(
    "userinfo",
    ["u" * 256 + ":password", "user:" + "p" * 256, "user:" + "%C3%A9" * 128],
    ids=["user", "password", "password in UTF-8"],
)
async def test_what_is_too_long_for_socks5_is_refused(client: Client, userinfo: str) -> None:
    """RFC 1929 section 2: one byte for each length. Nobody listens on port 1."""
    with pytest.raises(ValueError, match="255") as caught:
        await client.connect("ws://localhost/", f"socks5://{userinfo}@127.0.0.1:1")
    assert "p" * 256 not in str(caught.value)
    assert "é" not in str(caught.value)


@both_loops
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_who_gets_which_secret(
    client: Client, scheme: str, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy none of the server's, the server none of the proxy's, the log neither."""
    caplog.set_level(PICOWS_DEBUG_LL)
    user = "proxyuser" if scheme == "socks4" else "proxyuser:proxysecret"
    seen: list[bytes] = []
    async with RawProxy(scheme, grant_and_serve(scheme, seen), certificates) as raw:
        await client.visit(
            "ws://serveruser:serversecret@localhost:1/?token=serversecret",
            raw.url(user),
            extra_headers={"Cookie": "serversecret"},
        )
    to_proxy, to_server = seen
    basic_of_server = base64.b64encode(b"serveruser:serversecret")
    basic_of_proxy = base64.b64encode(b"proxyuser:proxysecret")
    assert basic_of_server in to_server
    assert to_server.count(b"serversecret") == 2
    for secret in (b"serveruser", b"serversecret", basic_of_server, b"Cookie"):
        assert secret not in to_proxy
    for secret in (b"proxyuser", b"proxysecret", basic_of_proxy, b"Proxy-"):
        assert secret not in to_server
    if scheme != "socks4":
        assert (b"proxysecret" if scheme == "socks5" else basic_of_proxy) in to_proxy
    logged = log_text(caplog)
    assert "GET /?token=***" in logged  # it is the log that is meant
    for secret in ("serversecret", "proxysecret", basic_of_server, basic_of_proxy):
        assert (secret if isinstance(secret, str) else secret.decode()) not in logged


def log_text(caplog: pytest.LogCaptureFixture) -> str:
    """Also what a handler would make of arguments and tracebacks."""
    formatter = logging.Formatter("%(name)s %(message)s")
    return "\n".join(formatter.format(record) for record in caplog.records)


@one
@through("http-password", "https-password", "socks5-password")
@pytest.mark.parametrize("end", ["connected", "no server", "wrong password"])
async def test_a_password_is_in_no_log_line(
    client: Client, proxy: Proxy, end: str, dead_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(PICOWS_DEBUG_LL)
    password = WRONG if end == "wrong password" else proxy.password
    assert proxy.username is not None
    assert password is not None
    async with serving(client.net) as port:
        address = proxy.url(password=password)
        try:
            to = dead_port if end == "no server" else port
            await client.visit(client.url(to), address)
        except WSHandshakeError as exc:
            assert end != "connected"
            check_secret(exc, password)
        else:
            assert end == "connected"
    credentials = f"{proxy.username}:{password}".encode()
    for secret in (password, encoded(password), base64.b64encode(credentials).decode()):
        assert secret not in log_text(caplog)
        assert secret.upper() not in log_text(caplog)


# -- proxies that do it otherwise ------------------------------------------------------------------


@plain
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_answer_in_single_bytes(client: Client, scheme: str, certificates: Any) -> None:
    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme, piecewise=True)
        for piece in pieces(GRANTED[scheme]):
            peer.send(piece)
            # Another read for the client: over loopback this segment has arrived.
            select.select([], [], [], 0.001)
        peer.accept_upgrade()
        peer.recv_all()

    async with RawProxy(scheme, script, certificates) as raw:
        await client.visit("ws://localhost/", raw.url())


@plain
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_answer_cut_behind_its_status_line(
    client: Client, scheme: str, certificates: Any
) -> None:
    """The rest of the head is none of the server's bytes."""

    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme)
        status_line, line_end, rest = GRANTED[scheme].partition(b"\r\n")
        peer.send(status_line, line_end)
        select.select([], [], [], 0.02)
        peer.send(rest)
        peer.accept_upgrade()
        peer.recv_all()

    async with RawProxy(scheme, script, certificates) as raw:
        await client.visit("ws://localhost/", raw.url())


@plain
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        # RFC 9110 section 9.3.6: both fields of a 2xx answer to CONNECT mean nothing.
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_other_ways_to_say_yes(
    client: Client, scheme: str, answer: bytes, certificates: Any
) -> None:
    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme)
        peer.send(answer)
        peer.accept_upgrade()
        peer.recv_all()

    async with RawProxy(scheme, script, certificates) as raw:
        await client.visit("ws://localhost/", raw.url())


@plain
@pytest.mark.time_limit(10)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("same_segment", [True, False], ids=["same segment", "next segment"])
async def test_bytes_behind_the_answer_are_an_error(
    client: Client, scheme: str, same_segment: bool, certificates: Any
) -> None:
    """A server of WebSockets does not speak first: they are the proxy's own. Those that come late
    are as good as the server's, whose answer they are not.
    """
    extra = b"<html>\r\n\r\n"

    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme)
        peer.send(GRANTED[scheme] + (extra if same_segment else b""))
        if not same_segment:
            peer.send(extra)
        peer.recv_all()

    async with RawProxy(scheme, script, certificates) as raw:
        with pytest.raises(WSHandshakeError) as caught:
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=None)
        if same_segment:
            assert f"localhost:{raw.port}" in str(caught.value)


GARBAGE = {
    "http": [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\r\n\r\n",
        b"\x05\x00\x00\x01",
        b"HTTP/1.1 \r\n\r\n",
    ],
    "https": [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n"],
    "socks4": [b"HTTP/1.1 200 OK\r\n\r\n", b"\x00\x00" + bytes(6), b"\x05\x5a" + bytes(6)],
    "socks5": [b"HTTP/1.1 200 OK\r\n\r\n", b"\x05\x00\x00\x07" + bytes(6), b"\x04\x00\x00\x01"],
}


@plain
@pytest.mark.time_limit(10)
@pytest.mark.parametrize(
    ("scheme", "sent"), [(scheme, sent) for scheme in SCHEMES for sent in GARBAGE[scheme]]
)
async def test_garbage_is_an_error(
    client: Client, scheme: str, sent: bytes, certificates: Any
) -> None:
    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme)
        peer.send(sent)
        peer.end_sending()
        peer.recv_all()

    async with RawProxy(scheme, script, certificates) as raw:
        with pytest.raises(WSHandshakeError) as caught:
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=None)
        assert f"{scheme}://localhost:{raw.port}" in str(caught.value)
        assert caught.value.response is None


@plain
@pytest.mark.time_limit(10)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("when", ["at once", "asked", "in its answer"])
async def test_a_proxy_that_closes(
    client: Client, scheme: str, when: str, certificates: Any
) -> None:
    """An error, and at once."""

    def script(peer: RawPeer) -> None:
        if when == "at once":
            # Up to the first bytes, or the system would make a reset of it.
            peer.recv_some()
            return
        recv_request(peer, scheme)
        if when == "in its answer":
            peer.send(GRANTED[scheme][:5])

    async with RawProxy(scheme, script, certificates) as raw:
        with pytest.raises(WSHandshakeError) as caught:
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=None)
        assert f"{scheme}://localhost:{raw.port}" in str(caught.value)


@plain
@pytest.mark.time_limit(10)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_resets(client: Client, scheme: str, certificates: Any) -> None:
    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme)
        peer.reset()

    async with RawProxy(scheme, script, certificates) as raw:
        if raw.ssl_context is not None:
            # aiofastnet on uvloop misses a reset that comes together with bytes, such as those of
            # TLS's session tickets (test_reset.py).
            raw.ssl_context = certificates.issue("localhost")
            raw.ssl_context.num_tickets = 0
        with pytest.raises((ConnectionResetError, WSHandshakeError)):
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=None)


@one
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_answer_without_end(client: Client, scheme: str, certificates: Any) -> None:
    """It is given up before it has eaten the memory, and is no yes."""
    sent = 0

    def script(peer: RawPeer) -> None:
        nonlocal sent
        recv_request(peer, scheme)
        peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        with contextlib.suppress(OSError):
            while sent < 64 * 1024 * 1024:
                peer.send(b"x" * 65536)
                sent += 65536

    async with RawProxy(scheme, script, certificates) as raw:
        with pytest.raises(WSHandshakeError) as caught:
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=None)
        assert f"{scheme}://localhost:{raw.port}" in str(caught.value)
    # With all that the system's buffers hold.
    assert sent < 32 * 1024 * 1024


@one
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_part_of_an_answer_is_no_yes(
    client: Client, scheme: str, certificates: Any
) -> None:
    """More of a head than is ever read at once, as it would be if its end came next."""
    asked = []

    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme)
        peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000)
        asked.append(peer.recv_all())

    async with RawProxy(scheme, script, certificates) as raw:
        with pytest.raises(WSHandshakeError) as caught:
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=None)
        assert f"{scheme}://localhost:{raw.port}" in str(caught.value)
        assert "16384 bytes" in str(caught.value)
    assert asked == [b""]


# -- one deadline (line 7) -------------------------------------------------------------------------


@contextlib.contextmanager
def unreachable() -> Iterator[int]:
    """A port on which a connection is neither accepted nor refused; Linux drops what comes while
    the queue of a listening socket is full.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(10):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listening.getsockname())
            if not select.select([], [caller], [], 0.1)[1]:
                break
        else:
            raise AssertionError("the queue takes any number of callers")
        yield listening.getsockname()[1]


@plain
@pytest.mark.parametrize("scheme", ["https", "socks5"])
async def test_the_deadline_ends_a_proxy_that_cannot_be_reached(
    client: Client, scheme: str
) -> None:
    with unreachable() as port:
        with pytest.raises(asyncio.TimeoutError):
            await client.connect(
                client.url(1), f"{scheme}://127.0.0.1:{port}", websocket_handshake_timeout=SHORT
            )


@plain
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("when", ["at once", "in its answer"])
async def test_the_deadline_ends_a_proxy_that_is_silent(
    client: Client, scheme: str, when: str, certificates: Any
) -> None:
    def script(peer: RawPeer) -> None:
        if when != "at once":
            recv_request(peer, scheme)
        if when == "in its answer":
            peer.send(GRANTED[scheme][:5])
        peer.recv_all()  # hangs unless the client closes

    async with RawProxy(scheme, script, certificates) as raw:
        with pytest.raises(asyncio.TimeoutError):
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=SHORT)


@plain
async def test_the_deadline_covers_tls_with_the_proxy(client: Client) -> None:
    async with RawServer(lambda peer: peer.recv_all()) as raw:
        with pytest.raises(asyncio.TimeoutError):
            await client.connect(
                "ws://localhost/",
                f"https://127.0.0.1:{raw.port}",
                websocket_handshake_timeout=SHORT,
            )


@both_loops
@pytest.mark.parametrize("scheme", ["https", "socks5"])
async def test_the_deadline_covers_what_comes_behind_the_proxy(
    client: Client, scheme: str, certificates: Any
) -> None:
    """TLS with the server, or the upgrade."""

    def script(peer: RawPeer) -> None:
        recv_request(peer, scheme)
        peer.send(GRANTED[scheme])
        peer.recv_all()

    async with RawProxy(scheme, script, certificates) as raw:
        with pytest.raises(asyncio.TimeoutError):
            await client.connect(client.url(1), raw.url(), websocket_handshake_timeout=SHORT)


@one
async def test_one_deadline_for_all_of_it(client: Client, certificates: Any) -> None:
    """A proxy that says something now and then does not get another one for each of it."""

    def script(peer: RawPeer) -> None:
        recv_request(peer, "http")
        peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        # 5,000 of them would be 50 seconds, beyond the time limit of the test.
        with contextlib.suppress(OSError):
            for _ in range(5000):
                peer.send(b"x")
                select.select([], [], [], 0.01)

    async with RawProxy("http", script, certificates) as raw:
        with pytest.raises(asyncio.TimeoutError):
            await client.connect("ws://localhost/", raw.url(), websocket_handshake_timeout=SHORT)


# -- cancellation (line 8) -------------------------------------------------------------------------


async def cancel(task: asyncio.Task[Any]) -> None:
    assert not task.done()
    task.cancel()
    # Not `await task`: the time limit's own cancellation would look the same.
    done, _ = await asyncio.wait([task], timeout=3 * loops.TIME_FACTOR)
    if not done:
        task.cancel()
        pytest.fail("cancelled, it hangs")
    assert task.cancelled()


@plain
@pytest.mark.parametrize("scheme", ["https", "socks5"])
async def test_cancelled_while_connecting_to_the_proxy(client: Client, scheme: str) -> None:
    with unreachable() as port:
        connecting = client.connect(
            client.url(1), f"{scheme}://127.0.0.1:{port}", websocket_handshake_timeout=None
        )
        task = asyncio.ensure_future(connecting)
        await some_iterations()
        await cancel(task)


@both_loops
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("where", ["TLS with the proxy", "first bytes", "request", "behind"])
async def test_cancelled_in_what_is_said(
    client: Client, scheme: str, where: str, certificates: Any
) -> None:
    """`behind` is the upgrade, or TLS with the server."""
    if where == "TLS with the proxy":
        scheme = "https"
    if scheme == "https" and client.net.tls and not client.carries_tls_in_tls:
        pytest.skip("asyncio's transports carry it from Python 3.11 on")
    loop = asyncio.get_running_loop()
    there = asyncio.Event()

    def script(peer: RawPeer) -> None:
        if where == "TLS with the proxy":
            assert peer.recv_exactly(1) == b"\x16"  # a TLS handshake record
        elif where == "first bytes":
            peer.recv_exactly(1)
        else:
            recv_request(peer, scheme)
        if where == "behind":
            peer.send(GRANTED[scheme])
            assert peer.recv_exactly(1) == (b"\x16" if client.net.tls else b"G")
        loop.call_soon_threadsafe(there.set)
        peer.recv_all()  # hangs unless the client closes

    async with RawProxy(scheme, script, certificates) as raw:
        if where == "TLS with the proxy":
            raw.ssl_context = None
        connecting = client.connect(client.url(1), raw.url(), websocket_handshake_timeout=None)
        task = asyncio.ensure_future(connecting)
        await there.wait()
        await cancel(task)


class ProxyInTheLoop:
    """HTTP CONNECT in the test's own loop, so that its iterations tell how far things are."""

    def __init__(self, ssl_context: ssl.SSLContext | None) -> None:
        self.ssl_context = ssl_context
        self.calls = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        with contextlib.closing(writer), contextlib.suppress(EOFError, OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            port = int(head.partition(b" HTTP/")[0].rpartition(b":")[2])
            there, back = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(back):
                writer.write(GRANTED["http"])
                pumps = [self._pump(reader, back), self._pump(there, writer)]
                await asyncio.wait(
                    [asyncio.ensure_future(pump) for pump in pumps],
                    return_when=asyncio.ALL_COMPLETED,
                )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def __aenter__(self) -> ProxyInTheLoop:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.ssl_context)
        scheme = "http" if self.ssl_context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        await self.server.wait_closed()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cancelled_after_each_iteration_of_the_loop(
    net: Any, client: Client, scheme: str, certificates: Any
) -> None:
    """TLS with the proxy, CONNECT, TLS with the server, the upgrade: each await is hit by one of
    the rounds.
    """
    if (scheme == "https" or net.tls) and not client.carries_tls_in_tls:
        pytest.skip("asyncio of Python 3.10 warns of each TLS handshake that is cancelled")

    def factory(url: WSParsedURL) -> socket.socket:
        # Connected: what the system does meanwhile would take any number of iterations.
        return socket.create_connection((url.host, url.port))

    server = await net.serve(lambda request: Recorder())
    url = net.url(server)
    async with ProxyInTheLoop(certificates.server if scheme == "https" else None) as proxy:
        for iterations in range(2000):
            connecting = client.connect(url, proxy.url, socket_factory=factory)
            task = asyncio.ensure_future(connecting)
            for _ in range(iterations):
                await asyncio.sleep(0)
            if task.done():
                break
            await cancel(task)
        transport, _ = await task
        transport.disconnect()
        await transport.wait_disconnected()
        await server.shutdown()
    assert iterations > 5
    # Some were cancelled before the proxy had begun, or in TLS with it; the others have called it.
    assert proxy.calls > iterations // 2
    # The loops report a client that breaks off its TLS handshake in their own ways.
    net.loop_errors.clear()


@one
async def test_cancelled_in_the_socket_factory(client: Client) -> None:
    called = asyncio.Event()

    async def factory(url: WSParsedURL) -> None:
        called.set()
        await asyncio.get_running_loop().create_future()

    connecting = client.connect(
        "ws://localhost/",
        "http://localhost:1",
        socket_factory=factory,
        websocket_handshake_timeout=None,
    )
    task = asyncio.ensure_future(connecting)
    await called.wait()
    await cancel(task)


# -- whose certificate (line 51) -------------------------------------------------------------------


def nothing(peer: RawPeer) -> None:
    """A server that is content with TLS, or without."""


@tls_only
@through("http", "https", "socks4", "socks5")
@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_the_certificate_of_the_server_must_fit_the_server(
    client: Client, proxy: Proxy, wrong: str, certificates: Any
) -> None:
    """`localhost`, the name of the proxies, is a wrong one, too."""
    context = certificates.issue("localhost" if wrong == "name" else "127.0.0.1")
    trusted = None if wrong == "authority" else certificates.client
    async with RawServer(nothing, context) as server:
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await client.connect(
                client.url(server.port, "127.0.0.1"), proxy.url("localhost"), ssl_context=trusted
            )
        assert ("mismatch" in str(caught.value)) is (wrong == "name")
        await proxy.was_asked_for("127.0.0.1", server.port)
    assert server.tls_failure is not None
    forget_asyncios_own(client.net)


def forget_asyncios_own(net: Any) -> None:
    """Before Python 3.13 asyncio stumbles over itself where TLS in TLS fails, and tells the loop's
    exception handler.
    """
    if sys.version_info < (3, 13) and net.loop_kind != "uvloop" and net.use_aiofastnet is False:
        errors = [context.get("exception") for context in net.loop_errors]
        assert all(isinstance(exc, (TypeError, AttributeError)) for exc in errors)
        net.loop_errors.clear()


@plain
@through("https")
async def test_the_certificate_of_the_proxy_must_fit_the_proxy(
    client: Client, proxy: Proxy
) -> None:
    """Its certificate is for "localhost" and "::1"."""
    async with serving(client.net) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            await client.connect(client.url(port), proxy.url("127.0.0.1"))
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            # The system's authorities do not know it.
            await client.connect(client.url(port), proxy.url(), proxy_ssl_context=None)
        assert "mismatch" not in str(caught.value)
        await client.visit(client.url(port), proxy.url())
        await proxy.was_asked_for("localhost", port)
    assert proxy.log().count(f":{port} HTTP/1.1") == 1


@tls_only
@through("https")
async def test_one_context_does_not_stand_in_for_the_other(
    client: Client, proxy: Proxy, certificates: Any
) -> None:
    """`ssl_context` is for the server, `proxy_ssl_context` for the proxy."""
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    async with RawServer(nothing, certificates.server) as server:
        url = client.url(server.port, "127.0.0.1")
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.connect(url, proxy.url(), ssl_context=trusting, proxy_ssl_context=None)
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.connect(url, proxy.url(), ssl_context=None, proxy_ssl_context=trusting)
        await proxy.was_asked_for("127.0.0.1", server.port)
    assert proxy.log().count(f":{server.port} HTTP/1.1") == 1
    forget_asyncios_own(client.net)


@tls_only
@through("http", "https", "socks4", "socks5")
@pytest.mark.parametrize("server_hostname", [None, "target.example"])
async def test_sni_is_the_servers(
    client: Client, proxy: Proxy, certificates: Any, server_hostname: str | None
) -> None:
    """And `server_hostname` is for the server alone: the https:// proxy would not pass by it."""
    asked: list[str | None] = []
    context = certificates.issue(server_hostname or "localhost")
    context.sni_callback = lambda sock, name, context: asked.append(name)
    # aiofastnet 1.2.0 crashes in a sni_callback.
    async with serving(client.net, ssl=context, use_aiofastnet=False) as port:
        await client.visit(
            client.url(port),
            proxy.url("[::1]" if proxy.scheme == "https" else "127.0.0.1"),
            server_hostname=server_hostname,
        )
    assert asked == [server_hostname or "localhost"]


@both_loops
async def test_sni_for_the_proxy_is_the_proxys(client: Client, certificates: Any) -> None:
    asked: list[str | None] = []
    context = certificates.issue("localhost")
    context.sni_callback = lambda sock, name, context: asked.append(name)

    def script(peer: RawPeer) -> None:
        recv_request(peer, "https")

    async with RawServer(script, context) as raw:
        with pytest.raises(WSHandshakeError):
            await client.connect(client.url(1, "target.example"), f"https://localhost:{raw.port}")
    assert asked == ["localhost"]


# -- socket_factory and the like -------------------------------------------------------------------


@plain
@through("http", "https-password", "socks4", "socks5-password")
@pytest.mark.parametrize("way", ["unconnected", "connected", "coroutine", "none"])
async def test_socket_factory_makes_the_socket_to_the_proxy(
    client: Client, proxy: Proxy, way: str
) -> None:
    urls: list[WSParsedURL] = []
    local = f"127.0.0.{os.getpid() % 200 + 20}"

    def factory(url: WSParsedURL) -> socket.socket | None:
        urls.append(url)
        if way == "none":
            return None
        sock = socket.socket()
        sock.bind((local, 0))
        if way == "connected":
            sock.connect(("127.0.0.1", url.port))
        return sock

    async def coroutine(url: WSParsedURL) -> socket.socket | None:
        await asyncio.sleep(0)
        return factory(url)

    async with serving(client.net) as port:
        async with client.connected(
            client.url(port),
            proxy.url(),
            socket_factory=coroutine if way == "coroutine" else factory,
        ) as (transport, listener):
            transport.send(WSMsgType.TEXT, b"hello")
            await listener.until_frames(1)
            sock = transport.underlying_transport.get_extra_info("socket")
            assert (sock.getsockname()[0] == local) is (way != "none")
        (url,) = urls
        assert (url.scheme, url.host, url.port) == (proxy.scheme, "localhost", proxy.port)
        assert (url.username, url.password) == (proxy.username, proxy.password)
        # microsocks tells of the address from which it was called, as do the others.
        await proxy.was_asked_for(address_given(proxy), port)
        if way != "none":
            await proxy.logged(local)


@plain
async def test_local_addr_is_for_the_way_to_the_proxy(client: Client, certificates: Any) -> None:
    callers: list[str] = []

    def script(peer: RawPeer) -> None:
        callers.append(peer.sock.getpeername()[0])
        grant_and_serve("http", [])(peer)

    async with RawProxy("http", script, certificates) as raw:
        await client.visit(
            "ws://localhost:1/", f"http://127.0.0.1:{raw.port}", local_addr=("127.0.0.9", 0)
        )
    assert callers == ["127.0.0.9"]


# -- redirects -------------------------------------------------------------------------------------


@both_loops
@through("http-password", "https", "socks4", "socks5-password")
async def test_a_redirect_goes_through_the_proxy_as_well(client: Client, proxy: Proxy) -> None:
    seen: list[WSUpgradeRequest] = []
    made: list[WSParsedURL] = []

    def accept(request: WSUpgradeRequest) -> Recorder:
        seen.append(request)
        return Recorder(echo)

    async with serving(client.net, accept) as last:

        def redirect(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            seen.append(request)
            response = WSUpgradeResponse.create_redirect_response(
                307, client.url(last, path="/there")
            )
            return WSUpgradeResponseWithListener(response, None)

        async with serving(client.net, redirect) as first:
            async with client.connected(
                client.url(first, "user:secret@localhost"), proxy.url(), socket_factory=made.append
            ) as (transport, listener):
                transport.send(WSMsgType.TEXT, b"hello")
                await listener.until_frames(1)
            for port in (first, last):
                await proxy.was_asked_for(address_given(proxy), port)
    assert [request.path for request in seen] == [b"/", b"/there"]
    # Another port, another origin.
    assert ["Authorization" in request.headers for request in seen] == [True, False]
    assert [url.port for url in made] == [proxy.port] * 2


# -- parameters ------------------------------------------------------------------------------------

WRONG_PARAMETERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"proxy": b"http://localhost"}, TypeError, "proxy must be a str or None, not bytes"),
    ({"proxy": 8080}, TypeError, "proxy must be a str or None, not int"),
    ({"proxy": True}, TypeError, "proxy must be a str or None, not bool"),
    ({"proxy": ""}, WSInvalidURL, "proxy URL '': it must begin with one of http://"),
    ({"proxy": "localhost:1"}, WSInvalidURL, "proxy URL 'localhost:1': it must begin with one of"),
    ({"proxy": "ftp://localhost"}, WSInvalidURL, "it must begin with one of http://, https://"),
    ({"proxy": "ws://localhost"}, WSInvalidURL, "it must begin with one of http://, https://"),
    ({"proxy": "socks5h://localhost"}, WSInvalidURL, "must begin with one of .*socks5://"),
    ({"proxy": "http://"}, WSInvalidURL, "proxy URL .* it has no host"),
    ({"proxy": "http://localhost:0"}, WSInvalidURL, "proxy URL .* a number from 1 to 65535"),
    ({"proxy": "http://localhost:65536"}, WSInvalidURL, "proxy URL .* a number from 1 to 65535"),
    ({"proxy": "http://[::1"}, WSInvalidURL, "proxy URL .* brackets"),
    ({"proxy": "http://::1"}, WSInvalidURL, "proxy URL .* stands in brackets"),
    ({"proxy": "http://localhost/path"}, WSInvalidURL, "proxy URL .* it must have no path"),
    ({"proxy": "http://localhost?query"}, WSInvalidURL, "proxy URL .* it must have no path"),
    ({"proxy": "http://localhost#here"}, WSInvalidURL, "proxy URL"),
    ({"proxy": "http://local host"}, WSInvalidURL, "proxy URL .* space or a control character"),
    ({"proxy": "http://a\r\nX:b@localhost"}, WSInvalidURL, "proxy URL .* control character"),
    ({"proxy": "http://a%0d%0ax@localhost"}, WSInvalidURL, "proxy URL .* control character"),
    ({"proxy": "socks4://u:p@localhost"}, WSInvalidURL, "SOCKS4 knows a user but no password"),
    (
        {"proxy": "http://localhost", "url": "ws+unix:///run/x.sock"},
        ValueError,
        "proxy leads to no Unix socket",
    ),
    ({"proxy_ssl_context": True}, TypeError, "proxy_ssl_context must be an ssl.SSLContext"),
    (
        {"proxy_ssl_context": ssl.create_default_context()},
        ValueError,
        "proxy_ssl_context is for an https:// proxy",
    ),
    (
        {"proxy_ssl_context": ssl.create_default_context(), "proxy": "http://localhost:1"},
        ValueError,
        "proxy_ssl_context is for an https:// proxy",
    ),
    (
        {"proxy_ssl_context": ssl.create_default_context(), "proxy": "socks5://localhost:1"},
        ValueError,
        "proxy_ssl_context is for an https:// proxy",
    ),
]


@one
@pytest.mark.parametrize(
    ("wrong", "error", "match"), WRONG_PARAMETERS, ids=range(len(WRONG_PARAMETERS))
)
async def test_wrong_parameters_are_refused_before_anything_is_opened(
    net: Any, wrong: dict[str, Any], error: type[Exception], match: str
) -> None:
    def factory(url: WSParsedURL) -> None:
        raise AssertionError("a socket was asked for")

    given: dict[str, Any] = {"url": "ws://localhost:1/", "socket_factory": factory, **wrong}
    with pytest.raises(error, match=match) as caught:
        await ws_connect(Recorder, **given)
    assert isinstance(caught.value, (TypeError, ValueError))


@one
@pytest.mark.parametrize(
    "proxy",
    [
        "ftp://user:hunter2@localhost",
        "http://user:hunter2@localhost/path",
        "http://user:hunter2@localhost:0",
        "http://user:hunter2@",
        "socks4://user:hunter2@localhost",
        "user:hunter2@localhost:8080",
        "http://user:hun/ter2@localhost",
    ],
)
async def test_a_wrong_url_is_named_without_its_password(net: Any, proxy: str) -> None:
    with pytest.raises(WSInvalidURL) as caught:
        await ws_connect(Recorder, "ws://localhost:1/", proxy=proxy)
    assert "ter2" not in str(caught.value)
    assert "ter2" not in repr(caught.value)


# -- proxies.py itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_installed_is_named(
    kind: str, tmp_path: Path, certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies_module, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"Debian: apt-get install \S+$") as caught:
        Proxies(tmp_path, None)[kind]
    (package,) = re.findall(r"install (\S+)", str(caught.value))
    assert package in inspect.getsource(proxies_module) or package == "dante-server"
    ci = Path(__file__).parent.parent.parent / ".ci" / "run"
    assert package in ci.read_text()


def test_no_process_is_left(tmp_path: Path, certificates: Any) -> None:
    """danted leaves twenty children behind, if nobody waits for them."""
    if shutil.which("danted", path=proxies_module.SEARCH_PATH) is None:
        pytest.skip("no danted here; Debian: apt-get install dante-server")
    started = Proxies(tmp_path, certificates.authority.issue_cert("localhost"))
    _ = started["socks4"]
    groups = [process.pid for process in started._processes]
    assert groups
    for group in groups:
        os.killpg(group, 0)
    started.end()
    for group in groups:
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
