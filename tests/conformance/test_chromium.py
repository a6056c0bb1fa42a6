"""Our server and a real browser: the page comes from our server, the script in it opens WebSockets
to the same server, plain and over TLS, on every loop and transport."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from conformance.chromium import EXECUTABLE, Chromium, Page
from conformance.peers.common import answer, digest, payload
from conformance.peers.picows_peer import Picows, PicowsChannel
from conformance.support import BIG, REASON, SIZES

from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# The same payload() as in peers/common.py, made of the first block that Python gives it.
SCRIPT = """
"use strict";
class Talk {
    constructor(protocols = []) {
        this.socket = new WebSocket(location.href.replace("http", "ws") + "talk", protocols);
        this.socket.binaryType = "arraybuffer";
        this.inbox = [];
        this.waiting = null;
        this.socket.onmessage = (event) => { this.inbox.push(event.data); this.waiting?.(); };
        this.closed = new Promise((resolve) => {
            this.socket.onclose = (event) => resolve([event.code, event.reason, event.wasClean]);
        });
        this.opened = new Promise((resolve, reject) => {
            this.socket.onopen = resolve;
            this.closed.then((end) => reject(new Error("never opened: " + end)));
        });
    }
    async receive() {
        while (!this.inbox.length)
            await new Promise((resolve) => { this.waiting = resolve; });
        return this.inbox.shift();
    }
    async digest() {
        const data = await this.receive();
        const kind = typeof data === "string" ? "text" : "binary";
        const bytes = kind === "text" ? new TextEncoder().encode(data) : new Uint8Array(data);
        const sha = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
        const hex = Array.from(sha, (byte) => byte.toString(16).padStart(2, "0")).join("");
        return [kind, bytes.length, hex];
    }
}
function payload(kind, size, block) {
    if (kind === "binary") {
        const bytes = new Uint8Array(size);
        for (let i = 0; i < size; i++) bytes[i] = block[i % block.length];
        return bytes;
    }
    const whole = Math.floor(size / 10);
    return "a\\u00e9\\u20ac\\u{1f600}".repeat(whole) + "z".repeat(size - 10 * whole);
}
"""
PAGE = f"<!doctype html><title>picows</title><script>{SCRIPT}</script>".encode()
BLOCK = list(payload("binary", 64 + 256))


class Site(Picows):
    """A server of ours: the page at /, WebSockets at /talk."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.channels: list[PicowsChannel] = []
        self.received: list[list[Any]] = []  # digests of all messages
        self.closed: asyncio.Queue[Any] = asyncio.Queue()  # what clients closed with, or the error

    def router(self, answered: Any) -> Callable[[WSUpgradeRequest], Any]:
        talk = super().router(answered)

        def route(request: WSUpgradeRequest) -> Any:
            if request.path == b"/":
                response = WSUpgradeResponse.create_ok_response(
                    PAGE, {"Content-Type": "text/html; charset=utf-8"}
                )
                return WSUpgradeResponseWithListener(response, None)
            if request.path != b"/talk":
                return None  # /favicon.ico
            if "Sec-WebSocket-Protocol" not in request.headers:
                return talk(request)
            assert request.headers["Sec-WebSocket-Protocol"] == "superchat, chat"
            response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": "chat"})
            return WSUpgradeResponseWithListener(response, talk(request))

        return route

    async def answered(self, channel: Any, path: str) -> None:
        self.channels.append(channel)
        try:
            end: Any = await answer(channel, lambda *got: self.received.append(digest(*got)))
        except Exception as error:
            end = error
        self.closed.put_nowait(end)


class Visit:
    """A page of `site` that is open in the browser."""

    def __init__(self, site: Site, page: Page) -> None:
        self.site = site
        self.page = page

    async def run(self, script: str, **values: Any) -> Any:
        """Page.run() with `values` as constants of the script."""
        constants = "".join(f"const {name} = {json.dumps(v)};" for name, v in values.items())
        return await asyncio.to_thread(self.page.run, constants + script)


class Browser:
    """Chromium and one combination of loop, TLS and transports."""

    def __init__(self, chromium: Chromium, net: Any, context: ssl.SSLContext | None) -> None:
        self.chromium = chromium
        self.net = net
        self.context = context

    @contextlib.asynccontextmanager
    async def visit(self) -> AsyncIterator[Visit]:
        site = Site(use_aiofastnet=self.net.use_aiofastnet)
        port = await site.serve(self.context)
        try:
            url = self.net.url(port).replace("ws", "http", 1)
            page = await asyncio.to_thread(self.chromium.open_page, url)
            try:
                yield Visit(site, page)
            finally:
                await asyncio.to_thread(page.close)
            for channel in site.channels:
                await channel.transport.wait_disconnected()
                assert (channel.connected, channel.disconnected) == (1, 1)
                assert channel.transport.is_secure == self.net.tls
        finally:
            await site.servers[0].shutdown(timeout=1)


@pytest.fixture(scope="module")
def chromium(
    tmp_path_factory: pytest.TempPathFactory, certificate_files: Any
) -> Iterator[Chromium]:
    if EXECUTABLE is None:
        pytest.skip("no Chromium: apt-get install --no-install-recommends chromium")
    folder = tmp_path_factory.mktemp("chromium")
    browser = Chromium(folder, certificate_files.cert.read_bytes())
    try:
        yield browser
    finally:
        browser.stop()


@pytest.fixture
def browser(chromium: Chromium, net: Any, certificate_files: Any) -> Browser:
    if not net.tls:
        return Browser(chromium, net, None)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_files.cert)
    return Browser(chromium, net, context)


ECHOES = """
    const talk = new Talk();
    await talk.opened;
    for (const size of sizes) talk.socket.send(payload(kind, size, block));
    const echoes = [];
    for (const _ of sizes) echoes.push(await talk.digest());
    talk.socket.close(1000);
    return [echoes, await talk.closed];
"""


async def echo(browser: Browser, kind: str, sizes: list[int]) -> None:
    async with browser.visit() as visit:
        echoes, closed = await visit.run(ECHOES, kind=kind, sizes=sizes, block=BLOCK)
        expected = [digest(kind, payload(kind, size)) for size in sizes]
        assert visit.site.received == expected  # from the browser
        assert echoes == expected  # and back
        assert closed == [1000, "", True]
        assert await visit.site.closed.get() == (1000, "")


@pytest.mark.parametrize("kind", ["text", "binary"])
async def test_messages(browser: Browser, kind: str) -> None:
    await echo(browser, kind, SIZES)


@pytest.mark.net(loops=("uvloop",), aiofastnet=(None,))
async def test_16_mib(browser: Browser) -> None:
    await echo(browser, "binary", [BIG])


async def test_fragments_and_ping_from_the_server(browser: Browser) -> None:
    """A browser shows no PING to a script, but answers it."""
    script = """
        const talk = new Talk();
        await talk.opened;
        talk.socket.send("!fragments text 40");
        talk.socket.send("!ping hello");
        talk.socket.send("!fragments binary 70000");
        const results = [await talk.digest(), await talk.receive(), await talk.digest()];
        talk.socket.close(1000);
        await talk.closed;
        return results;
    """
    async with browser.visit() as visit:
        assert await visit.run(script) == [
            digest("text", payload("text", 40)),
            "ponged hello",
            digest("binary", payload("binary", 70_000)),
        ]


async def test_browser_closes(browser: Browser) -> None:
    script = """
        const talk = new Talk();
        await talk.opened;
        talk.socket.close(...how);
        return talk.closed;
    """
    async with browser.visit() as visit:
        for code in (1000, 3000, 4999):
            assert await visit.run(script, how=[code, REASON]) == [code, REASON, True]
            assert await visit.site.closed.get() == (code, REASON)
        assert await visit.run(script, how=[]) == [1005, "", True]
        assert await visit.site.closed.get() == (1005, "")


async def test_server_closes(browser: Browser) -> None:
    script = """
        const talk = new Talk();
        await talk.opened;
        talk.socket.send("!close " + how);
        return talk.closed;
    """
    async with browser.visit() as visit:
        for code in (1000, 1011, 3000, 4999):
            assert await visit.run(script, how=f"{code} {REASON}") == [code, REASON, True]
            assert await visit.site.closed.get() == (code, REASON)
        assert await visit.run(script, how="0") == [1005, "", True]
        assert await visit.site.closed.get() == (1005, "")


async def test_browser_leaves(browser: Browser) -> None:
    """A page that goes away sends a CLOSE of code 1001."""
    async with browser.visit() as visit:
        await visit.run("window.talk = new Talk(); await talk.opened;")
        await asyncio.to_thread(visit.page.reload)
        assert await visit.site.closed.get() == (1001, "")


async def test_subprotocol_and_extensions(browser: Browser) -> None:
    """Chromium offers permessage-deflate in each request; we do not accept it."""
    script = """
        const talk = new Talk(["superchat", "chat"]);
        await talk.opened;
        talk.socket.close(1000);
        await talk.closed;
        return [talk.socket.protocol, talk.socket.extensions];
    """
    async with browser.visit() as visit:
        assert await visit.run(script) == ["chat", ""]
        headers = visit.site.channels[0].transport.request.headers
        assert "permessage-deflate" in headers["Sec-WebSocket-Extensions"]
