"""Redirects (line 9 of the regressions): where ws_connect goes on, what goes along, what ends it.

Where a Location leads by RFC 3986 is tests/test_urls.py. A raw server here serves one connection
after the other, and waits for the end of each: a hop that is not closed before the next one begins
hangs. That nothing is left at the end is checked behind every test (loops.py).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import socket
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from aio.traffic import Recorder, some_iterations

import loops
import picows
from picows import (
    PICOWS_DEBUG_LL,
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidMessageError,
    WSInvalidStatusError,
    WSMsgType,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from raw_peer import RawPeer, RawServer, field

# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
one_and_tls = pytest.mark.net(loops=("asyncio",), aiofastnet=(None,))
tls_only = pytest.mark.net(tls=(True,))

STATUSES = (301, 302, 303, 307, 308)
# Long enough for TCP, TLS and a few hops on a busy machine; each such test waits for it once.
SHORT = 0.5 * loops.TIME_FACTOR


def redirect(status: int, location: str | None, *lines: bytes, body: bytes = b"") -> bytes:
    head = [b"HTTP/1.1 %d Elsewhere" % status]
    if location is not None:
        head.append(b"Location: " + location.encode("latin-1"))
    if not any(line.startswith((b"Content-Length:", b"Transfer-Encoding:")) for line in lines):
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, *lines]) + b"\r\n\r\n" + body


def accept(peer: RawPeer) -> bytes:
    return peer.accept_upgrade()


class Hops:
    """A raw server's script: the first answer is for the first connection, and so on.

    An answer is what is sent, or a function that answers and returns the request.
    """

    def __init__(self, *answers: bytes | Callable[[RawPeer], bytes]) -> None:
        self.answers = answers
        self.heads: list[bytes] = []

    def __call__(self, peer: RawPeer) -> None:
        answer = self.answers[len(self.heads)]
        if callable(answer):
            self.heads.append(answer(peer))
        else:
            self.heads.append(peer.recv_head())
            peer.send(answer)
        assert peer.recv_all() == b""  # hangs unless the client closes; and it says nothing more

    @property
    def targets(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]

    def fields(self, name: str) -> list[bytes | None]:
        """The value of one header field in each request."""
        return [field(head, name.encode()) for head in self.heads]


async def leave(transport: Any) -> None:
    transport.disconnect()
    await transport.wait_disconnected()


@contextlib.contextmanager
def nobody_may_call() -> Any:
    """The port of a server that fails the test when somebody connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listening.accept()


# -- where it goes on ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
async def test_each_status_is_followed(net: Any, status: int) -> None:
    """With a server of ours, which closes the connection behind its answer."""
    seen: list[WSUpgradeRequest] = []
    served: list[Recorder] = []
    made: list[tuple[WSUpgradeRequest, WSUpgradeResponse]] = []

    def route(request: WSUpgradeRequest) -> Any:
        seen.append(request)
        if request.path != b"/new?x=1":
            response = WSUpgradeResponse.create_redirect_response(status, "/new?x=1#here")
            return WSUpgradeResponseWithListener(response, None)
        served.append(Recorder(lambda transport, frame: transport.send(WSMsgType.TEXT, b"echo")))
        return served[-1]

    def factory(request: WSUpgradeRequest, response: WSUpgradeResponse) -> Recorder:
        made.append((request, response))
        return Recorder()

    server = await net.serve(route)
    transport, listener = await net.connect(factory, net.url(server, "/old"))
    transport.send(WSMsgType.TEXT, b"hello")
    await listener.until_frames(1)
    assert listener.payloads == [b"echo"]
    assert transport.is_secure == net.tls
    # The factory knows of the last request alone.
    ((request, response),) = made
    assert (request, response) == (transport.request, transport.response)
    assert request.path == b"/new?x=1"
    assert response.status == 101
    assert [each.path for each in seen] == [b"/old", b"/new?x=1"]
    await leave(transport)
    await server.shutdown()
    assert [each.events for each in served] == [["connected", b"hello", "disconnected"]]
    assert listener.events == ["connected", b"echo", "disconnected"]


@one_and_tls
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/new", "/new"),
        ("new", "/a/new"),
        ("../new", "/new"),
        ("?new=1", "/a/b?new=1"),
        ("#new", "/a/b?c"),
        ("/new?x#y", "/new?x"),
        ("//127.0.0.1:{port}", "/"),
        ("//127.0.0.1:{port}/new#y", "/new"),
        ("{ws}://127.0.0.1:{port}/new", "/new"),
        ("{http}://127.0.0.1:{port}/new", "/new"),
        ("{HTTP}://127.0.0.1:{port}?new", "/?new"),
        ("{http}://localhost:{port}/new", "/new"),
    ],
)
async def test_forms_of_a_location(net: Any, location: str, target: str) -> None:
    names = {
        "ws": "wss" if net.tls else "ws",
        "http": "https" if net.tls else "http",
        "HTTP": "HTTPS" if net.tls else "HTTP",
    }
    async with RawServer(hops := Hops(), net.server_ssl) as server:
        hops.answers = (redirect(302, location.format(port=server.port, **names)), accept)
        transport, _ = await net.connect(Recorder, server.url("/a/b?c"))
        assert transport.request.path == target.encode()
        await leave(transport)
    assert hops.targets == ["/a/b?c", target]


@one
async def test_each_hop_has_its_own_key_and_host(net: Any) -> None:
    hops = Hops(redirect(302, "/1"), redirect(302, "/2"), accept)
    async with RawServer(hops) as server:
        transport, _ = await net.connect(Recorder, server.url())
        await leave(transport)
    assert len(set(hops.fields("Sec-WebSocket-Key"))) == 3
    assert set(hops.fields("Host")) == {b"127.0.0.1:%d" % server.port}
    assert (
        transport.request.headers["Sec-WebSocket-Key"].encode()
        == (hops.fields("Sec-WebSocket-Key")[-1])
    )


@one
@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 103 Early Hints\r\nLocation: /wrong\r\n\r\n" + redirect(302, "/new"),
        b"HTTP/1.0 302 Found\r\nLocation: /new\r\n\r\n",
        b"HTTP/1.1 302\r\nlOCATION:/new  \r\n\r\n",
        # What is behind a redirect belongs to nobody.
        redirect(302, "/new") + b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        redirect(302, "/new", b"Connection: Upgrade", b"Upgrade: websocket"),
    ],
)
async def test_what_else_a_redirect_may_look_like(net: Any, first: bytes) -> None:
    hops = Hops(first, accept)
    async with RawServer(hops) as server:
        transport, _ = await net.connect(Recorder, server.url())
        await leave(transport)
    assert hops.targets == ["/", "/new"]


@pytest.mark.time_limit(10)
@pytest.mark.parametrize(
    ("line", "body"),
    [
        (b"Content-Length: 1000", b"half of it"),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
        (b"Connection: close\r\nTransfer-Encoding: identity", b"until the end"),
    ],
    ids=["length", "chunked", "neither"],
)
async def test_a_body_that_never_ends_does_not_delay(net: Any, line: bytes, body: bytes) -> None:
    hops = Hops(redirect(302, "/new", line, body=body), accept)
    async with RawServer(hops, net.server_ssl) as server:
        transport, _ = await net.connect(Recorder, server.url(), websocket_handshake_timeout=None)
        await leave(transport)
    assert hops.targets == ["/", "/new"]


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_kwargs_of_the_loop_hold_for_each_hop(net: Any) -> None:
    callers = []

    def note(answer: bytes | Callable[[RawPeer], bytes]) -> Callable[[RawPeer], bytes]:
        def script(peer: RawPeer) -> bytes:
            callers.append(peer.sock.getpeername()[0])
            if callable(answer):
                return answer(peer)
            head = peer.recv_head()
            peer.send(answer)
            return head

        return script

    async with RawServer(Hops(note(redirect(302, "/new")), note(accept))) as server:
        transport, _ = await net.connect(Recorder, server.url(), local_addr=("127.0.0.9", 0))
        await leave(transport)
    assert callers == ["127.0.0.9"] * 2


# -- what is no redirect, and how many are too many ------------------------------------------------


@one
@pytest.mark.parametrize("limit", [1, 2, 5, 20])
async def test_max_redirects_are_followed(net: Any, limit: int) -> None:
    hops = Hops(*(redirect(302, f"/{number}") for number in range(1, limit + 1)), accept)
    # 5 is what holds without it.
    given = {} if limit == 5 else {"max_redirects": limit}
    async with RawServer(hops) as server:
        transport, _ = await net.connect(Recorder, server.url("/0"), **given)
        await leave(transport)
    assert hops.targets == [f"/{number}" for number in range(limit + 1)]


@one_and_tls
@pytest.mark.parametrize("limit", [1, 2, 5, 20])
async def test_one_redirect_more_is_an_error(net: Any, limit: int) -> None:
    followed = (redirect(302, f"/{number}", body=b"go on") for number in range(1, limit + 1))
    last = redirect(308, "/more", b"X-Last: yes", body=b"enough")
    hops = Hops(*followed, last)
    given = {} if limit == 5 else {"max_redirects": limit}
    async with RawServer(hops, net.server_ssl) as server:
        with pytest.raises(
            WSInvalidStatusError, match=rf"{limit} redirects.*max_redirects"
        ) as caught:
            await net.connect(Recorder, server.url("/0"), **given)
    assert len(hops.heads) == limit + 1
    assert caught.value.response is not None
    assert caught.value.response.status == HTTPStatus.PERMANENT_REDIRECT
    assert caught.value.response.headers["X-Last"] == "yes"
    assert caught.value.response.body == caught.value.raw_body == b"enough"
    assert caught.value.raw_header == last.removesuffix(b"enough")


@one
@pytest.mark.parametrize("location", ["", "#", "#top", "/loop", "loop"])
async def test_a_loop_ends(net: Any, location: str) -> None:
    answers = [redirect(301, location or "/loop")] * 6
    hops = Hops(*answers)
    async with RawServer(hops) as server:
        with pytest.raises(WSInvalidStatusError, match="max_redirects"):
            await net.connect(Recorder, server.url("/loop"))
    assert hops.targets == ["/loop"] * 6


@pytest.mark.parametrize("status", STATUSES)
async def test_no_redirects_wanted(net: Any, status: int) -> None:
    answer = redirect(status, "/new", body=b"this way, please")
    hops = Hops(answer)
    async with RawServer(hops, net.server_ssl) as server:
        with pytest.raises(WSInvalidStatusError, match=f"{status}") as caught:
            await net.connect(Recorder, server.url(), max_redirects=0)
    assert len(hops.heads) == 1
    assert caught.value.response is not None
    assert caught.value.response.status == status
    assert caught.value.response.headers["Location"] == "/new"
    assert caught.value.response.body == caught.value.raw_body == b"this way, please"
    assert caught.value.raw_header == answer.removesuffix(b"this way, please")


@one
@pytest.mark.parametrize("location", [None, "", "http://", "ws+unix:///x:/"])
async def test_no_redirects_wanted_and_a_location_that_leads_nowhere(
    net: Any, location: str | None
) -> None:
    async with RawServer(Hops(redirect(302, location))) as server:
        with pytest.raises(WSInvalidStatusError, match="302"):
            await net.connect(Recorder, server.url(), max_redirects=0)


@one
@pytest.mark.parametrize("status", [200, 201, 300, 304, 305, 306, 309, 399, 401, 426])
async def test_other_statuses_are_no_redirects(net: Any, status: int) -> None:
    body = b"" if status == 304 else b"choose"
    hops = Hops(redirect(status, "/new", body=body))
    async with RawServer(hops) as server:
        with pytest.raises(WSInvalidStatusError, match=f"{status}") as caught:
            await net.connect(Recorder, server.url())
    assert len(hops.heads) == 1
    assert caught.value.response is not None
    assert caught.value.response.status == status
    assert caught.value.raw_body == body


# -- Locations that lead nowhere -------------------------------------------------------------------


@one
@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([], None),
        (["Location:"], ""),
        (["Location:  \t "], ""),
        (["Location: /a", "Location: /b"], "/a, /b"),
        (["Location: /a", "location: /a"], "/a, /a"),
        (["Content-Location: /a"], None),
        (["Location: /a b"], "/a b"),
        (["Location: http://"], "http://"),
        (["Location: ws:///x"], "ws:///x"),
        (["Location: http://127.0.0.1:0/"], "http://127.0.0.1:0/"),
        (["Location: http://127.0.0.1:99999/"], "http://127.0.0.1:99999/"),
        (["Location: http://a..b/"], "http://a..b/"),
        (["Location: //[::1/"], "//[::1/"),
        (["Location: ftp://127.0.0.1/"], "ftp://127.0.0.1/"),
        (["Location: http:/x"], "http:/x"),
        (["Location: localhost:80/x"], "localhost:80/x"),
        (["Location: file:///etc/passwd"], "file:///etc/passwd"),
        (["Location: ws+unix:///run/docker.sock:/x"], "ws+unix:///run/docker.sock:/x"),
        (["Location: WS+Unix:///run/docker.sock:/x"], "WS+Unix:///run/docker.sock:/x"),
    ],
    ids=repr,
)
async def test_a_location_that_leads_nowhere(net: Any, lines: list[str], value: str | None) -> None:
    head = "\r\n".join(["HTTP/1.1 302 Found", *lines, "Content-Length: 4"]).encode()
    hops = Hops(head + b"\r\n\r\nbody")
    async with RawServer(hops) as server:
        with pytest.raises(WSInvalidHeaderError, match="Location") as caught:
            await net.connect(Recorder, server.url())
    assert len(hops.heads) == 1
    assert caught.value.name == "Location"
    assert caught.value.value == value
    assert caught.value.response is not None
    assert caught.value.response.status == 302
    assert caught.value.raw_header == head + b"\r\n\r\n"


@one
@pytest.mark.parametrize("location", [b"/f\xfcr", "/für".encode(), b"/\x00", b"/\x7f", b"/\r/x"])
async def test_a_location_of_bytes_that_no_field_may_hold(net: Any, location: bytes) -> None:
    async with RawServer(
        Hops(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n")
    ) as server:
        with pytest.raises(WSInvalidMessageError):
            await net.connect(Recorder, server.url())


@tls_only
@pytest.mark.parametrize("scheme", ["ws", "WS", "http", "HTTP"])
async def test_never_from_tls_to_plain_tcp(net: Any, scheme: str) -> None:
    with nobody_may_call() as port:
        hops = Hops(redirect(301, f"{scheme}://127.0.0.1:{port}/"))
        async with RawServer(hops, net.server_ssl) as server:
            with pytest.raises(WSInvalidHeaderError, match="Location") as caught:
                await net.connect(Recorder, server.url())
    assert "wss to ws" in str(caught.value.__cause__)
    assert caught.value.response is not None
    assert caught.value.response.status == 301


@tls_only
async def test_never_from_tls_to_plain_tcp_by_a_detour(net: Any, certificates: Any) -> None:
    """The second hop counts as the first did: it is TLS because a redirect said so."""
    with nobody_may_call() as port:
        secure = Hops(redirect(302, f"http://127.0.0.1:{port}/"))
        async with RawServer(secure, certificates.server) as second:
            plain = Hops(redirect(302, f"https://127.0.0.1:{second.port}/"))
            async with RawServer(plain) as first:
                with pytest.raises(WSInvalidHeaderError, match="Location"):
                    await net.connect(Recorder, first.url())
    assert (len(plain.heads), len(secure.heads)) == (1, 1)


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_nobody_is_there(net: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with RawServer(Hops(redirect(302, f"http://127.0.0.1:{port}/"))) as server:
        with pytest.raises(ConnectionRefusedError):
            await net.connect(Recorder, server.url())


@one
async def test_the_second_answer_is_a_refusal(net: Any) -> None:
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nwait"
    async with RawServer(Hops(redirect(302, "/new", body=b"body"), refusal)) as server:
        with pytest.raises(WSInvalidStatusError, match="429") as caught:
            await net.connect(Recorder, server.url())
    assert caught.value.raw_body == b"wait"
    assert caught.value.raw_header == refusal.removesuffix(b"wait")


@one
async def test_the_second_answer_is_none(net: Any) -> None:
    def silent(peer: RawPeer) -> bytes:
        head = peer.recv_head()
        peer.end_sending()
        return head

    async with RawServer(Hops(redirect(302, "/new", body=b"body"), silent)) as server:
        with pytest.raises(WSHandshakeError, match="without an answer") as caught:
            await net.connect(Recorder, server.url())
    # Nothing of the first hop is left on it.
    assert (caught.value.response, caught.value.raw_header, caught.value.raw_body) == (None,) * 3


# -- credentials -----------------------------------------------------------------------------------

SECRETS = [
    ("AUTHORIZATION", "Bearer secret"),
    ("cookIE", "session=secret"),
    ("Proxy-authorization", "Basic secret"),
    ("hOsT", "secret.example"),
]
HARMLESS = [("X-Feed", "depth"), ("Sec-WebSocket-Protocol", "chat"), ("User-Agent", "tests")]
BASIC = b"Basic " + base64.b64encode(b"user:secret")


@contextlib.asynccontextmanager
async def two_hops(certificates: Any, where: str) -> Any:
    """A server that redirects; yields its URL's host and port, and what each hop was sent.

    `where` says what of the origin is another one in the Location; nothing where it is "same".
    """

    def secure(peer: RawPeer) -> bytes:
        peer.sock = certificates.server.wrap_socket(peer.sock, server_side=True)
        return peer.accept_upgrade(b"Sec-WebSocket-Protocol: chat")

    def plain(peer: RawPeer) -> bytes:
        return peer.accept_upgrade(b"Sec-WebSocket-Protocol: chat")

    async with RawServer(hops := Hops()) as first:
        if where == "port":
            async with RawServer(other := Hops(plain)) as second:
                hops.answers = (redirect(302, f"http://127.0.0.1:{second.port}/new"),)
                heads: list[bytes] = []
                yield first, heads
            heads.extend(hops.heads + other.heads)
            return
        location = {
            "same": "/new",
            "same, written differently": f"HTTP://127.0.0.1:{first.port}/new",
            "host": f"http://localhost:{first.port}/new",
            "scheme": f"https://127.0.0.1:{first.port}/new",
        }[where]
        hops.answers = (redirect(302, location), secure if where == "scheme" else plain)
        yield first, hops.heads


@one
@pytest.mark.parametrize("where", ["same", "same, written differently"])
async def test_credentials_stay_with_the_origin(net: Any, certificates: Any, where: str) -> None:
    async with two_hops(certificates, where) as (first, heads):
        transport, _ = await net.connect(Recorder, first.url(), extra_headers=[*SECRETS, *HARMLESS])
        await leave(transport)
    assert len(heads) == 2
    for head in heads:
        for name, value in SECRETS + HARMLESS:
            assert field(head, name.encode()) == value.encode()
        assert head.lower().count(b"\r\nhost:") == 1


@one
@pytest.mark.parametrize("where", ["scheme", "host", "port"])
async def test_credentials_do_not_leave_the_origin(net: Any, certificates: Any, where: str) -> None:
    async with two_hops(certificates, where) as (first, heads):
        transport, _ = await net.connect(
            Recorder,
            first.url(),
            extra_headers=[*SECRETS, *HARMLESS],
            ssl_context=certificates.client,
        )
        assert transport.is_secure == (where == "scheme")
        assert transport.response.headers["Sec-WebSocket-Protocol"] == "chat"
        await leave(transport)
    before, after = heads
    for name, value in SECRETS:
        assert field(before, name.encode()) == value.encode()
    for name, value in HARMLESS:
        assert field(after, name.encode()) == value.encode()
    assert b"secret" not in after
    for name in (b"authorization", b"cookie", b"proxy-authorization"):
        assert field(after, name) is None
    # A new Host is made of the new URL.
    expected = b"localhost:" if where == "host" else b"127.0.0.1:"
    assert (field(after, b"Host") or b"").startswith(expected)
    assert after.lower().count(b"\r\nhost:") == 1


@one
@pytest.mark.parametrize("where", ["same", "same, written differently", "scheme", "host", "port"])
async def test_user_and_password_of_the_url(net: Any, certificates: Any, where: str) -> None:
    async with two_hops(certificates, where) as (first, heads):
        transport, _ = await net.connect(
            Recorder,
            first.url().replace("//", "//user:secret@"),
            ssl_context=certificates.client,
            extra_headers={"Sec-WebSocket-Protocol": "chat"},
        )
        await leave(transport)
    before, after = heads
    assert field(before, b"Authorization") == BASIC
    assert field(after, b"Authorization") == (BASIC if where.startswith("same") else None)


@one
async def test_credentials_do_not_come_back_with_the_origin(net: Any) -> None:
    """Whoever is in between could choose to what they are shown."""
    async with RawServer(first_hops := Hops()) as first, RawServer(second_hops := Hops()) as second:
        second_hops.answers = (redirect(302, first.url("/chosen")),)
        first_hops.answers = (redirect(302, second.url()), accept)
        transport, _ = await net.connect(
            Recorder, first.url().replace("//", "//user:secret@"), extra_headers=SECRETS
        )
        await leave(transport)
    before, after = first_hops.heads
    assert b"secret" in before
    assert b"secret" not in after + second_hops.heads[0]
    assert field(after, b"Authorization") is None


@one
@pytest.mark.parametrize("extra_headers", [None, {"Authorization": "Bearer mine"}])
async def test_user_and_password_of_a_location(net: Any, extra_headers: Any) -> None:
    """They are for where it leads; what the user himself set comes first, within the origin."""
    async with RawServer(first_hops := Hops()) as first, RawServer(second_hops := Hops()) as second:
        first_hops.answers = (
            redirect(302, f"//us%65r:secret@127.0.0.1:{first.port}/"),
            redirect(302, "/again"),
            redirect(302, f"http://other@127.0.0.1:{second.port}/"),
        )
        second_hops.answers = (accept,)
        transport, _ = await net.connect(Recorder, first.url(), extra_headers=extra_headers)
        await leave(transport)
    mine = b"Bearer mine" if extra_headers else None
    assert first_hops.fields("Authorization") == [mine, mine or BASIC, mine or BASIC]
    assert second_hops.fields("Authorization") == [b"Basic " + base64.b64encode(b"other:")]
    assert second_hops.fields("Host") == [b"127.0.0.1:%d" % second.port]


@one
async def test_line_15_secrets_of_a_redirect_are_not_logged(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(PICOWS_DEBUG_LL)
    async with RawServer(hops := Hops()) as server:
        visible = f"visible:hunter2@127.0.0.1:{server.port}/shown?depth=5&listenKey=hunter2"
        hops.answers = (redirect(302, f"http://{visible}"), accept)
        transport, _ = await net.connect(
            Recorder, server.url("/?token=hunter2"), extra_headers={"Cookie": "hunter2"}
        )
        await leave(transport)
    assert "redirected to ws://visible:***@" in caplog.text
    assert "/shown?depth=5" in caplog.text
    assert "hunter2" not in caplog.text
    assert base64.b64encode(b"visible:hunter2").decode() not in caplog.text


@one
@pytest.mark.parametrize(
    "location",
    ["http://user:hunter2@127.0.0.1:99999/", "ftp://h/?token=hunter2", "//user:hunter2@/"],
)
async def test_line_15_secrets_of_a_location_are_not_in_the_error(net: Any, location: str) -> None:
    """It ends up in the application's log; who wants to see all looks at `.value`."""
    async with RawServer(Hops(redirect(302, location))) as server:
        with pytest.raises(WSInvalidHeaderError) as caught:
            await net.connect(Recorder, server.url())
    assert caught.value.value == location
    shown = [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    assert not [each for each in shown if "hunter2" in each]


# -- TLS -------------------------------------------------------------------------------------------


@tls_only
async def test_server_hostname_stays_with_the_origin(net: Any, certificates: Any) -> None:
    other = certificates.issue("other.example")
    async with (
        RawServer(first_hops := Hops(), other) as first,
        RawServer(Hops(accept), certificates.server) as second,
    ):
        first_hops.answers = (redirect(302, "/again"), redirect(302, second.url()))
        transport, _ = await net.connect(Recorder, first.url(), server_hostname="other.example")
        await leave(transport)
    assert first_hops.targets == ["/", "/again"]


@tls_only
async def test_server_hostname_is_no_name_for_another_origin(net: Any, certificates: Any) -> None:
    """Its owner has a certificate for the first server's name, and redirects to himself."""
    other = certificates.issue("other.example")
    async with RawServer(lambda peer: None, other) as second:
        async with RawServer(Hops(redirect(302, second.url())), other) as first:
            with pytest.raises(ssl.SSLCertVerificationError):
                await net.connect(Recorder, first.url(), server_hostname="other.example")
    assert second.tls_failure is not None
    net.loop_errors.clear()


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
@pytest.mark.parametrize("trusted", [True, False])
async def test_from_plain_tcp_to_tls(net: Any, certificates: Any, trusted: bool) -> None:
    """With the user's context, or with the system's authorities, who know nothing of ours."""
    context = certificates.client if trusted else None
    async with RawServer(secure := Hops(accept), certificates.server) as second:
        async with RawServer(Hops(redirect(302, f"https://127.0.0.1:{second.port}"))) as first:
            connecting = net.connect(Recorder, first.url(), ssl_context=context)
            if trusted:
                transport, _ = await connecting
                assert transport.is_secure
                await leave(transport)
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await connecting
    assert len(secure.heads) == trusted
    net.loop_errors.clear()


# -- time, cancellation, what is left --------------------------------------------------------------


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_one_deadline_for_all_hops(net: Any) -> None:
    """Each hop is quicker than the deadline; all of them would take four times as long."""

    def slow(number: int) -> Callable[[RawPeer], bytes]:
        def script(peer: RawPeer) -> bytes:
            head = peer.recv_head()
            time.sleep(SHORT)
            with contextlib.suppress(OSError):  # the client has gone
                peer.send(redirect(302, f"/{number}"))
            return head

        return script

    hops = Hops(*(slow(number) for number in range(20)), accept)
    async with RawServer(hops, net.server_ssl) as server:
        with pytest.raises(asyncio.TimeoutError):
            await net.connect(
                Recorder, server.url(), websocket_handshake_timeout=5 * SHORT, max_redirects=20
            )
    assert 1 < len(hops.heads) < 20


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_the_deadline_passes_in_the_second_hop(net: Any) -> None:
    """No answer is a TimeoutError, though the first hop's answer had a body that was not read."""
    first = redirect(302, "/new", b"Content-Length: 1000", body=b"half")
    hops = Hops(first, b"")
    async with RawServer(hops, net.server_ssl) as server:
        with pytest.raises(asyncio.TimeoutError):
            await net.connect(Recorder, server.url(), websocket_handshake_timeout=SHORT)
    assert len(hops.heads) == 2


@one
@pytest.mark.parametrize("limit", [0, 1])
async def test_the_deadline_passes_in_the_body_of_the_last_redirect(net: Any, limit: int) -> None:
    last = redirect(302, "/new", b"Content-Length: 1000", body=b"half")
    async with RawServer(Hops(*[redirect(302, "/")] * limit, last)) as server:
        with pytest.raises(WSInvalidStatusError, match="302") as caught:
            await net.connect(
                Recorder, server.url(), websocket_handshake_timeout=SHORT, max_redirects=limit
            )
    assert caught.value.raw_body == b"half"


@pytest.mark.time_limit(10)
async def test_cancelled_in_the_second_hop(net: Any) -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def silent(peer: RawPeer) -> bytes:
        head = peer.recv_head()
        loop.call_soon_threadsafe(asked.set)
        return head

    hops = Hops(redirect(302, "/new"), silent)
    async with RawServer(hops, net.server_ssl) as server:
        connecting = net.connect(Recorder, server.url(), websocket_handshake_timeout=None)
        task = asyncio.ensure_future(connecting)
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert hops.targets == ["/", "/new"]


async def test_cancelled_after_each_iteration_of_the_loop(net: Any) -> None:
    """The end of one connection and the beginning of the next one are hit as well."""
    served: list[Recorder] = []

    def route(request: WSUpgradeRequest) -> Any:
        if request.path == b"/":
            response = WSUpgradeResponse.create_redirect_response(302, "/new")
            return WSUpgradeResponseWithListener(response, None)
        served.append(Recorder())
        return served[-1]

    server = await net.serve(route)
    for iterations in range(1000):
        listener = Recorder()
        task = asyncio.ensure_future(net.connect(lambda: listener, server))
        for _ in range(iterations):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=3 * loops.TIME_FACTOR)
        if not done:
            task.cancel()
            pytest.fail(f"cancelled after {iterations} iterations, it hangs")
        assert task.cancelled()
        assert listener.events in ([], ["connected", "disconnected"])
    transport, _ = task.result()
    assert iterations > 6
    await leave(transport)
    await some_iterations()
    await server.shutdown()
    # The loops report a client that breaks off its TLS handshake in their own ways.
    net.loop_errors.clear()
    assert [each.events for each in served] == [["connected", "disconnected"]] * len(served)


@pytest.mark.net(loops=("asyncio",))
@pytest.mark.parametrize("ends", ["well", "too many", "nowhere"])
async def test_nothing_is_left_for_the_cycle_collector(net: Any, ends: str) -> None:
    def route(request: WSUpgradeRequest) -> Any:
        if request.path == b"/new":
            return Recorder()
        location = {"well": "/new", "too many": "/", "nowhere": "ftp://x"}[ends]
        response = WSUpgradeResponse.create_redirect_response(302, location)
        return WSUpgradeResponseWithListener(response, None)

    async def attempt() -> None:
        try:
            transport, _ = await net.connect(Recorder, server, max_redirects=2)
        except WSHandshakeError:
            assert ends != "well"
        else:
            await leave(transport)

    server = await net.serve(route)
    await attempt()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await attempt()
        await some_iterations()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        names = [type(each).__module__ for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        await server.shutdown()
    assert not [each for each in names if str(each).startswith(picows.__name__)]
