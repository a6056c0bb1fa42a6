"""Examples around a server: how connections end, slow clients, plain HTTP, subprotocols."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from typing import TYPE_CHECKING

import pytest
from examples.support import each_ending, each_loop, example, port_of, serving

import loops
from picows import WSFrame, WSInvalidStatusError, WSListener, WSMsgType, WSTransport, ws_connect
from raw_peer import CLOSE, TEXT, encode_close, in_thread, raw_connect

if TYPE_CHECKING:
    import signal

MASK = b"\x37\xfa\x21\x3d"

# -- the closing handshake -------------------------------------------------------------------------


@each_loop
def test_graceful_shutdown(loop: str) -> None:
    with example("graceful_shutdown.py", "--patience", loops.TIME_FACTOR, "--loop", loop) as both:
        assert both.end().splitlines() == [
            "the client goes first:",
            "  the client sent 1000 done",
            "  the client received 1000 done",
            "  the server sent 1000 done",
            "  the server received 1000 done",
            "the server goes first:",
            "  the server sent 1012 back in a minute",
            "  the server received 1012 back in a minute",
            "  the client sent 1012 back in a minute",
            "  the client received 1012 back in a minute",
            "a server that does not answer:",
            "  the client sent 1000 anybody there?",
            "  the client received no CLOSE",
            "server.shutdown(), with one polite and one silent client:",
            "  the client sent 1001",
            "  the client received 1001",
            "  the client sent no CLOSE",
            "  the client received 1001",
        ]


# -- backpressure ----------------------------------------------------------------------------------


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


@each_loop
def test_producer_waits_for_a_slow_client(loop: str) -> None:
    with example("slow_client_backpressure.py", "--loop", loop) as both:
        before, arrived, skipped, most = both.end().splitlines()
    assert before.startswith("the client reads nothing, ")
    assert arrived == "2000 of 2000 ticks of 16 KiB arrived, 0 gaps"
    assert numbers_in(skipped)[0] == 0
    assert numbers_in(skipped)[1] >= 1
    # Over the high-water mark by less than a tick; 2000 ticks are 32 MB.
    assert 0 < numbers_in(before)[0] <= numbers_in(most)[0] < 100_000


@each_loop
def test_producer_skips_what_a_slow_client_misses(loop: str) -> None:
    with example("slow_client_backpressure.py", "--skip", "--loop", loop) as both:
        _, arrived, skipped, most = both.end().splitlines()
    received, ticks, _, gaps = numbers_in(arrived)
    assert received < ticks == 2000
    assert received + numbers_in(skipped)[0] == ticks
    assert gaps >= 1
    assert numbers_in(most)[0] < 100_000


def test_client_that_is_quick_enough() -> None:
    with example("slow_client_backpressure.py", "--ticks", 3) as both:
        output = both.end()
    assert "3 of 3 ticks of 16 KiB arrived, 0 gaps\n" in output
    assert "which was told to pause 0 times\n" in output


# -- HTTP on the same port -------------------------------------------------------------------------


def ask(url: str, method: str, target: str) -> tuple[HTTPResponse, bytes]:
    with closing(HTTPConnection("127.0.0.1", port_of(url), timeout=loops.TIME_LIMIT)) as http:
        http.request(method, target)
        response = http.getresponse()
        return response, response.read()


@each_ending
@each_loop
def test_http_beside_websocket(loop: str, ending: signal.Signals) -> None:
    with serving("websocket_and_health_check.py", "--loop", loop) as (server, url):
        got, body = ask(url, "GET", "/health")
        assert got.status == 200
        assert json.loads(body) == {"status": "ok", "clients": 0}
        assert got.headers["Content-Type"] == "application/json"

        head, nothing = ask(url, "HEAD", "/health")
        assert (head.status, nothing) == (200, b"")
        assert head.getheaders() == got.getheaders()

        moved, _ = ask(url, "GET", "/old")
        assert (moved.status, moved.headers["Location"]) == (308, "/")

        for target in ("/nothing", "/health/", "/?/health/.."):
            missing, body = ask(url, "GET", target)
            assert missing.status == (404 if target[1] != "?" else 400)
            assert b"health" not in body
        assert server.end(ending) == ""


@each_loop
def test_health_counts_clients(loop: str) -> None:
    with serving("websocket_and_health_check.py", "--loop", loop) as (_, url):
        with raw_connect(port_of(url)) as peer:
            assert peer.request_upgrade(path=b"/?query").startswith(b"HTTP/1.1 101 ")
            # Its answer shows that the server has it.
            peer.send_frame(TEXT, b"hello", mask=MASK)
            assert peer.recv_frame().payload == b"hello"
            assert json.loads(ask(url, "GET", "/health?now")[1])["clients"] == 1
            peer.send(encode_close(1000, mask=MASK))
            assert peer.recv_frame().opcode == CLOSE
            peer.recv_all()
        assert json.loads(ask(url, "GET", "/health")[1])["clients"] == 0


class Hello(WSListener):
    def __init__(self) -> None:
        self.echo: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, "hello")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.echo.set_result(frame.get_payload_as_utf8_text())
            transport.disconnect()


async def echo_of(url: str, **kwargs: object) -> str:
    transport, client = await ws_connect(Hello, url, **kwargs)
    await transport.wait_disconnected()
    return client.echo.result()


@each_loop
async def test_websocket_beside_http(loop: str) -> None:
    with serving("websocket_and_health_check.py", "--loop", loop) as (_, url):
        assert await echo_of(url) == "hello"
        for path, status in (("health", 200), ("nothing", 404)):
            with pytest.raises(WSInvalidStatusError) as refused:
                await ws_connect(Hello, url + path)
            assert refused.value.response.status == status


async def test_websocket_follows_the_redirect() -> None:
    with serving("websocket_and_health_check.py") as (_, url):
        assert await echo_of(url + "old") == "hello"
        with pytest.raises(WSInvalidStatusError) as refused:
            await ws_connect(Hello, url + "old", max_redirects=0)
        assert refused.value.response.status == 308


async def test_pages_of_other_sites_are_refused() -> None:
    ours, theirs = "https://ours.example", "https://theirs.example"
    with serving("websocket_and_health_check.py", "--origin", ours) as (_, url):
        assert await echo_of(url) == "hello"
        assert await echo_of(url, extra_headers={"Origin": ours}) == "hello"
        with pytest.raises(WSInvalidStatusError) as refused:
            await ws_connect(Hello, url, extra_headers={"Origin": theirs})
        assert refused.value.response.status == 403
        assert (await in_thread(ask, url, "GET", "/health"))[0].status == 200


# -- subprotocols ----------------------------------------------------------------------------------


@each_loop
def test_subprotocols(loop: str) -> None:
    with example("subprotocol_negotiation.py", "--loop", loop) as both:
        assert both.end().splitlines() == [
            "offered: greeting.v1, greeting.v2.json",
            '  chosen: greeting.v2.json, received: {"greeting": "hello"}',
            "offered: greeting.v1",
            "  chosen: greeting.v1, received: hello",
            "offered: none",
            "  chosen: none, received: hello",
            "offered: chess",
            "  refused: 400, spoken here: greeting.v2.json, greeting.v1",
        ]


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        ("chess,greeting.v1", "chosen: greeting.v1, received: hello"),
        ("GREETING.V1", "refused: 400, spoken here: greeting.v2.json, greeting.v1"),
        ("greeting.v1x", "refused: 400, spoken here: greeting.v2.json, greeting.v1"),
    ],
)
def test_subprotocols_are_whole_names(offered: str, answer: str) -> None:
    with example("subprotocol_negotiation.py", offered) as both:
        assert both.end() == f"offered: {offered}\n  {answer}\n"
