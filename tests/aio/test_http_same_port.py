"""HTTP beside WebSockets on one port, asked by Python's own http.client and urllib: they know
nothing of us. Byte by byte it is in test_serve.py and tests/handshake/test_server.py.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from aio.traffic import Recorder

from picows import (
    WSFrame,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from raw_peer import TIMEOUT, in_thread

BIG = bytes(range(256)) * 4_000
UPGRADE = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Page(NamedTuple):
    """What a route answers, and what an HTTP client sees of it."""

    make: Callable[[], WSUpgradeResponse]
    status: int
    reason: str
    body: bytes
    fields: dict[str, str]


def bodiless(status: int) -> WSUpgradeResponse:
    response = WSUpgradeResponse.create_ok_response()
    return WSUpgradeResponse(b"HTTP/1.1", status, response.headers)


OK = WSUpgradeResponse.create_ok_response
ERROR = WSUpgradeResponse.create_error_response
REDIRECT = WSUpgradeResponse.create_redirect_response

PAGES: dict[str, Page] = {
    "/health": Page(
        lambda: OK(b"fine\n", {"Content-Type": "text/plain", "X-Load": "3"}),
        200,
        "OK",
        b"fine\n",
        {"Content-Type": "text/plain", "X-Load": "3"},
    ),
    "/empty": Page(lambda: OK(), 200, "OK", b"", {}),
    "/big": Page(lambda: OK(BIG), 200, "OK", BIG, {}),
    "/nothing": Page(lambda: bodiless(204), 204, "No Content", b"", {}),
    "/old": Page(lambda: REDIRECT(301, "/health"), 301, "Moved Permanently", b"", {}),
    "/away": Page(
        lambda: REDIRECT(307, "wss://example.com/?a=b"),
        307,
        "Temporary Redirect",
        b"",
        {"Location": "wss://example.com/?a=b"},
    ),
    "/forbidden": Page(lambda: ERROR(403, b"not you\n"), 403, "Forbidden", b"not you\n", {}),
    "/login": Page(
        lambda: ERROR(401, None, {"WWW-Authenticate": 'Basic realm="x"'}),
        401,
        "Unauthorized",
        b"",
        {"WWW-Authenticate": 'Basic realm="x"'},
    ),
    "/busy": Page(
        lambda: ERROR(503, b"later\n", {"Retry-After": "7"}),
        503,
        "Service Unavailable",
        b"later\n",
        {"Retry-After": "7"},
    ),
    "/odd": Page(lambda: ERROR(599, b"odd"), 599, "", b"odd", {}),
}


class Echo(Recorder):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


class Site:
    """A server with all pages, an echo at /ws and nothing elsewhere; and who asked for what."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.requests: list[tuple[bytes, bytes]] = []
        self.listeners: list[Echo] = []

    def route(self, request: WSUpgradeRequest) -> Any:
        self.requests.append((request.method, request.path))
        path = request.path.decode().partition("?")[0]
        if path == "/ws":
            self.listeners.append(Echo())
            return self.listeners[-1]
        if path in PAGES:
            return WSUpgradeResponseWithListener(PAGES[path].make(), None)
        return None

    async def __aenter__(self) -> Site:
        self.server = await self.net.serve(self.route)
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        self.server.abort_clients()
        await self.server.wait_closed()


def connection(port: int, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)


def ask(
    port: int, context: ssl.SSLContext | None, method: str, path: str, **kwargs: Any
) -> tuple[http.client.HTTPResponse, bytes]:
    asking = connection(port, context)
    try:
        asking.request(method, path, **kwargs)
        response = asking.getresponse()
        if response.status != 101 and not kwargs.get("body"):
            # Not as many bytes as it was told, but up to the end of the stream, which has to come;
            # as a reset, perhaps, where a body comes that nobody reads.
            response.length = None
        return response, response.read()
    finally:
        asking.close()


def check_framing(response: http.client.HTTPResponse) -> None:
    """http.client believes these two, and nothing else says where a body ends."""
    assert response.version == 11
    assert response.will_close
    assert response.getheader("Connection") in ("close", "Upgrade, close")
    assert response.getheader("Transfer-Encoding") is None


@pytest.mark.parametrize("headers", [{}, UPGRADE], ids=["plain", "upgrade"])
async def test_pages_are_served_while_websockets_talk(net: Any, headers: dict[str, str]) -> None:
    """Each page by GET and by HEAD, with an upgrade asked for and without; each on a connection of
    its own, which ends with it.
    """
    over = threading.Event()
    round_trips = 0

    def until_it_has_talked() -> None:
        before = round_trips
        deadline = time.monotonic() + TIMEOUT
        while round_trips == before:
            assert time.monotonic() < deadline
            time.sleep(0.0001)

    def visit() -> None:
        for path, page in PAGES.items():
            until_it_has_talked()
            response, body = ask(site.port, net.client_ssl, "GET", path, headers=headers)
            check_framing(response)
            assert (response.status, response.reason) == (page.status, page.reason), path
            assert body == page.body
            for name, value in page.fields.items():
                assert response.getheader(name) == value
            length = response.getheader("Content-Length")
            assert length == (None if page.status == 204 else str(len(page.body)))

            head, body = ask(site.port, net.client_ssl, "HEAD", path, headers=headers)
            check_framing(head)
            assert body == b""
            # RFC 9110 section 9.3.2: the same fields.
            assert head.status == response.status
            assert head.getheaders() == response.getheaders()

    async def talk() -> None:
        nonlocal round_trips
        transport, listener = await net.connect(Recorder, net.url(site.port, "/ws"))
        while not over.is_set():
            transport.send(WSMsgType.BINARY, b"%d" % round_trips * 100)
            await listener.until_frames(1)
            assert listener.payloads.pop() == b"%d" % round_trips * 100
            round_trips += 1
            await asyncio.sleep(0)
        transport.disconnect()
        await transport.wait_disconnected()

    async with Site(net) as site:
        talking = asyncio.ensure_future(talk())
        try:
            await in_thread(visit)
            await in_thread(until_it_has_talked)
        finally:
            over.set()
            await talking
        await site.listeners[0].until_gone()
    # Nobody else became a WebSocket.
    assert len(site.listeners) == 1
    asked = [request for request in site.requests if request[1] != b"/ws"]
    wanted = [(method, path.encode()) for path in PAGES for method in (b"GET", b"HEAD")]
    assert asked == wanted


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_page_that_nobody_serves_is_a_404(net: Any) -> None:
    async with Site(net) as site:
        for headers in ({}, UPGRADE):
            for method in ("GET", "HEAD"):
                response, body = await in_thread(
                    ask, site.port, net.client_ssl, method, "/missing?x=y", headers=headers
                )
                check_framing(response)
                assert (response.status, response.reason) == (404, "Not Found")
                length = int(response.getheader("Content-Length"))
                assert length > 0
                assert len(body) == (0 if method == "HEAD" else length)
                assert b"missing" not in body


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_get_where_a_websocket_is_served(net: Any) -> None:
    """A browser's address line; a health check that was set to the wrong path."""
    async with Site(net) as site:
        for method in ("GET", "HEAD"):
            response, body = await in_thread(ask, site.port, net.client_ssl, method, "/ws")
            check_framing(response)
            assert (response.status, response.reason) == (400, "Bad Request")
            assert len(body) == (0 if method == "HEAD" else int(response.headers["Content-Length"]))
        old = {**UPGRADE, "Sec-WebSocket-Version": "8"}
        response, _ = await in_thread(ask, site.port, net.client_ssl, "GET", "/ws", headers=old)
        check_framing(response)
        assert (response.status, response.reason) == (426, "Upgrade Required")
        assert response.getheader("Sec-WebSocket-Version") == "13"
        assert response.getheader("Upgrade") == "websocket"
        response, _ = await in_thread(ask, site.port, net.client_ssl, "GET", "/ws", headers=UPGRADE)
        assert response.status == 101
        assert response.getheader("Content-Length") is None
        for listener in site.listeners:
            if listener.events:
                await listener.until_gone()
    # A listener whose upgrade failed was never told of anything.
    assert [listener.events for listener in site.listeners] == [
        *[[]] * 3,
        ["connected", "disconnected"],
    ]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_other_methods_are_told_which_ones_there_are(net: Any, method: str) -> None:
    """The router is not asked: a POST must not look like a health check."""
    async with Site(net) as site:
        body = b'{"a": 1}' if method in ("POST", "PUT", "PATCH") else None
        response, _ = await in_thread(ask, site.port, net.client_ssl, method, "/health", body=body)
        check_framing(response)
        assert (response.status, response.reason) == (405, "Method Not Allowed")
        assert response.getheader("Allow") == "GET, HEAD"
        # A body is not what a GET has.
        response, _ = await in_thread(ask, site.port, net.client_ssl, "GET", "/health", body=b"x=1")
        check_framing(response)
        assert response.status == 400
    assert site.requests == []


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_one_http_connection_after_another_and_many_at_once(net: Any) -> None:
    """http.client asks again on the same object, which connects anew because of the close; and a
    load balancer has many probes.
    """

    def again_and_again() -> None:
        asking = connection(site.port, net.client_ssl)
        for _ in range(5):
            asking.request("GET", "/health")
            assert asking.getresponse().read() == b"fine\n"
            assert asking.sock is None, "it was to be closed"
        asking.close()

    def many() -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(ask, site.port, net.client_ssl, "GET", path)
                for path in ("/health", "/big", "/forbidden") * 10
            ]
        assert [len(each.result()[1]) for each in asked] == [5, len(BIG), 8] * 10

    async with Site(net) as site:
        await in_thread(again_and_again)
        await in_thread(many)
    assert len(site.requests) == 35


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_urllib_follows_a_redirect_and_raises_for_errors(net: Any) -> None:
    def visit() -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        base = f"http://127.0.0.1:{site.port}"
        with opener.open(f"{base}/old", timeout=TIMEOUT) as page:
            assert (page.url, page.read()) == (f"{base}/health", b"fine\n")
        with pytest.raises(urllib.error.HTTPError) as caught:
            opener.open(f"{base}/forbidden", timeout=TIMEOUT)
        with caught.value as refused:
            assert (refused.code, refused.read()) == (403, b"not you\n")

    async with Site(net) as site:
        await in_thread(visit)
    assert [path for _, path in site.requests] == [b"/old", b"/health", b"/forbidden"]
