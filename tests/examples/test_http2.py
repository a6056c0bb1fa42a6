"""WebSocket over HTTP/2: echo_http2_server.py and echo_http2_client.py, which share
http2_stream.py, with each other, with Hypercorn, with Chromium, and with peers that misbehave.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme
from aio.deflate_peer import PeerDeflater
from conformance.chromium import EXECUTABLE, Chromium
from examples.http2_peer import (
    FRAME,
    MASK,
    VERSION,
    WEBSOCKET,
    WINDOW,
    Http2Peer,
    connect,
    serves,
)
from examples.support import (
    EXAMPLES,
    Running,
    each_ending,
    each_loop,
    example,
    port_of,
    serving,
    started,
)
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

from loops import TIME_LIMIT
from raw_peer import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawPeer,
    RawServer,
    encode_close,
    encode_frame,
    in_thread,
    raw_connect,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER = "echo_http2_server.py"
CLIENT = "echo_http2_client.py"
DEFLATE = "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15"
CHROMIUM_DEFLATE = "permessage-deflate; client_max_window_bits=15"
MIB = 1024 * 1024
# ASan's quarantine would be counted.
RESIDENT = sys.platform == "linux" and "PICOWS_SANITIZE" not in os.environ


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands beside an example, with PYTHONSAFEPATH, too."""
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{EXAMPLES}")


class Pem(NamedTuple):
    ca: Path
    cert: Path


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    folder = tmp_path_factory.mktemp("pem")
    files = Pem(folder / "ca.pem", folder / "cert.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(files.cert))
    authority.cert_pem.write_to_path(str(files.ca))
    return files


@contextlib.contextmanager
def talking(url: str, **options: Any) -> Iterator[Http2Peer]:
    client = connect(port_of(url), **options)
    with client.peer:
        yield client


def lines_of(server: Running, count: int) -> list[str]:
    return [server.line().rstrip("\n") for _ in range(count)]


# -- our client and our server ---------------------------------------------------------------------


@each_ending
@each_loop
def test_server_and_client(loop: str, ending: signal.Signals) -> None:
    with serving(SERVER, "--loop", loop) as (server, url):
        args = (url, "--streams", 2, "--count", 3, "--subprotocol", "chat", "--loop", loop)
        with example(CLIENT, *args) as client:
            assert client.end().splitlines() == [
                f"stream {number}: 3 echoes, closed with 1000, chat, {DEFLATE}" for number in (1, 3)
            ]
        assert sorted(server.end(ending).splitlines()) == [
            "stream 1: ended with 1000, 'done'",
            f"stream 1: opened, chat, {DEFLATE}",
            "stream 3: ended with 1000, 'done'",
            f"stream 3: opened, chat, {DEFLATE}",
        ]


@each_loop
def test_tls(loop: str, pem: Pem) -> None:
    with serving(SERVER, "--host", "localhost", "--cert", pem.cert, "--loop", loop) as (
        server,
        url,
    ):
        assert url.startswith("wss://localhost:")
        with example(CLIENT, url, "--ca", pem.ca, "--loop", loop) as client:
            assert client.end().count("10 echoes, closed with 1000") == 3
        with example(CLIENT, url, "--loop", loop) as stranger:
            assert "CERTIFICATE_VERIFY_FAILED" in stranger.fail()[1]
        server.end(signal.SIGINT)


@pytest.mark.parametrize("size", [100_000, 1_000_000])
@each_loop
def test_messages_larger_than_a_window(loop: str, size: int) -> None:
    """Sent without waiting for echoes, so each side has to wait for the other's window."""
    with serving(SERVER, "--loop", loop) as (_, url):
        # Some of it cannot be compressed.
        with client_of_random_bytes(url, size, 10, loop) as client:
            assert client.end() == "10 echoes, closed with 1000\n"


RANDOM_CLIENT = """
import asyncio, importlib, os, sys
from urllib.parse import urlsplit
from echo_http2_client import connect, open_websocket
from picows.sansio.events import BytesMessage, CloseConnection

async def main(url, size, count):
    messages = [os.urandom(size) for _ in range(count)]
    connection = await connect(urlsplit(url), None)
    running = asyncio.ensure_future(connection.run())
    websocket = await open_websocket(connection, urlsplit(url))

    async def send_all():
        for message in messages:
            await websocket.send(BytesMessage(message))
        await websocket.send(CloseConnection(1000))

    sender = asyncio.ensure_future(send_all())
    received = [message.data async for message in websocket]
    await sender
    assert received == messages
    print(len(received), "echoes, closed with", int(websocket.closed.code))
    connection.close()
    await running

importlib.import_module(sys.argv[4]).run(main(sys.argv[1], *map(int, sys.argv[2:4])))
"""


def client_of_random_bytes(
    url: str, size: int, count: int, loop: str
) -> contextlib.AbstractContextManager[Running]:
    args = (url, str(size), str(count), loop)
    return started(sys.executable, "-W", "default", "-c", RANDOM_CLIENT, *args)


@each_ending
@each_loop
def test_server_says_goodbye(loop: str, ending: signal.Signals) -> None:
    with serving(SERVER, "--loop", loop) as (server, url), talking(url) as client:
        stream = client.open()
        assert server.line() == f"stream {stream}: opened\n"
        server.process.send_signal(ending)
        assert client.wait(DataReceived, stream=stream).data == encode_close(1001)
        client.send(stream, encode_close(1001, mask=MASK))
        assert client.last_data(stream) == b""
        assert client.wait(ConnectionTerminated).error_code == ErrorCodes.NO_ERROR
        assert server.end() == f"stream {stream}: ended with 1001\n"


@each_loop
def test_server_does_not_wait_for_ever(loop: str) -> None:
    """Neither for an answer to its CLOSE, nor for one who reads nothing any more."""
    with serving(SERVER, "--loop", loop) as (server, url), talking(url) as client:
        stream = client.open()
        assert server.line() == f"stream {stream}: opened\n"
        expected = f"stream {stream}: lost: the connection was closed\n"
        assert server.end(signal.SIGTERM) == expected
        client.until_eof()


@each_ending
def test_client_is_stopped(ending: signal.Signals) -> None:
    def script(server: Http2Peer) -> None:
        server.accept()
        server.accept()
        server.accept()
        server.wait(DataReceived)
        os.write(told, b"!")
        server.until_eof()
        assert server.wait(ConnectionTerminated).error_code == ErrorCodes.NO_ERROR

    wait, told = os.pipe()
    with RawServer(serves(script)) as server, example(CLIENT, server.url()) as client:
        os.read(wait, 1)
        assert client.end(ending) == "stopped\n"
    os.close(wait)
    os.close(told)


# -- Hypercorn -------------------------------------------------------------------------------------

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    assert (scope["type"], scope["http_version"]) == ("websocket", "2"), scope
    assert (await receive())["type"] == "websocket.connect"
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text", "").endswith("go away"):
            await send({"type": "websocket.close", "code": 3000, "reason": "as you wish"})
        else:
            await send({**event, "type": "websocket.send"})
"""


@contextlib.contextmanager
def hypercorn(folder: Path, *args: object) -> Iterator[str]:
    (folder / "app.py").write_text(APP)
    serve = [sys.executable, "-m", "hypercorn", "--bind", "localhost:0", *map(str, args), "app:app"]
    # Its log is stderr, and `line` reads stdout.
    merged = ("sh", "-c", 'exec "$@" 2>&1', "sh", *serve)
    with started(*merged, cwd=folder) as server:
        while not (match := re.search(r"Running on http(s?)://\S+:(\d+) ", line := server.line())):
            assert line
        yield f"ws{match[1]}://localhost:{match[2]}/"


@each_loop
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_client_and_hypercorn(
    loop: str, tls: bool, pem: Pem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH")  # it is to find app.py
    args = ("--certfile", pem.cert, "--keyfile", pem.cert) if tls else ()
    # One stream: where an END_STREAM comes for a stream that it has done with, Hypercorn 0.18 ends
    # the connection with a KeyError in its log, and the other streams with it.
    options = ("--streams", 1, "--ca", pem.ca, "--loop", loop)
    with hypercorn(tmp_path, *args) as url:
        chat = ("--message", "x" * 100_000, "--subprotocol", "chat")
        with example(CLIENT, url, *chat, *options) as client:
            expected = "stream 1: 10 echoes, closed with 1000, chat, permessage-deflate"
            assert client.end().startswith(expected)
        with example(CLIENT, url, "--message", "go away", *options) as client:
            assert client.fail() == ("", "stream 1: 0 echoes, closed with 3000\n")


# -- Chromium --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory, pem: Pem) -> Iterator[Chromium]:
    if EXECUTABLE is None:
        pytest.skip("no Chromium: apt-get install --no-install-recommends chromium")
    browser = Chromium(tmp_path_factory.mktemp("chromium"), pem.cert.read_bytes())
    try:
        yield browser
    finally:
        browser.stop()


OPEN = """
    window.talk = new WebSocket(location.href.replace("http", "ws") + "talk", protocols);
    talk.binaryType = "arraybuffer";
    window.end = new Promise((resolve) => {
        talk.onclose = (event) => resolve([event.code, event.reason, event.wasClean]);
    });
    await new Promise((resolve) => { talk.onopen = resolve; });
"""
TALK = """
    const text = "a\\u00e9\\u20ac\\u{1f600}".repeat(20000);
    const binary = new Uint8Array(300000);
    for (let i = 0; i < binary.length; i += 60000)
        crypto.getRandomValues(binary.subarray(i, i + 60000));
    const received = [];
    const all = new Promise((resolve) => {
        talk.onmessage = (event) => { if (received.push(event.data) === 2) resolve(); };
    });
    talk.send(text);
    talk.send(binary);
    await all;
    const bytes = new Uint8Array(received[1]);
    const agreed = [talk.protocol, talk.extensions];
    const same = [received[0] === text, bytes.length, bytes.every((byte, i) => byte === binary[i])];
    talk.close(3001, "bye \\u{1f44b}");
    const how = await end;
    await fetch("/after");
    return [agreed, same, how];
"""


@each_loop
def test_chromium(loop: str, chromium: Chromium, pem: Pem) -> None:
    """The server speaks nothing but HTTP/2, and says on which stream of which page."""
    options = ("--host", "localhost", "--cert", pem.cert, "--loop", loop)
    with serving(SERVER, *options) as (server, url):
        page = chromium.open_page(url.replace("wss", "https"))
        # The page's own script: an echo, and a CLOSE.
        assert lines_of(server, 3) == [
            "stream 1: GET '/', 200",
            f"stream 3: opened, {CHROMIUM_DEFLATE}",
            "stream 3: ended with 1000",
        ]
        agreed, same, how = page.run('const protocols = ["superchat", "chat"];' + OPEN + TALK)
        assert agreed == ["chat", CHROMIUM_DEFLATE]
        assert same == [True, 300_000, True]
        assert how == [3001, "bye \U0001f44b", True]
        lines = lines_of(server, 3)
        assert re.fullmatch(rf"stream \d+: opened, chat, {CHROMIUM_DEFLATE}", lines[0])
        # END_STREAM has gone out before Chromium's onclose came and asked for a page. Without it,
        # Chromium waits two seconds and resets the stream.
        assert re.fullmatch("stream \\d+: ended with 3001, 'bye \U0001f44b'", lines[1])
        assert re.fullmatch(r"stream \d+: GET '/after', 404", lines[2])

        page.run("const protocols = [];" + OPEN)
        server.process.send_signal(signal.SIGTERM)
        assert page.run("return end;") == [1001, "", True]
        opened, ended = server.end().splitlines()
        assert re.fullmatch(rf"stream \d+: opened, {CHROMIUM_DEFLATE}", opened)
        assert re.fullmatch(r"stream \d+: ended with 1001", ended)
        page.close()


# -- the server, and the rules of RFC 8441 ---------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(SERVER) as (running, url), talking(url) as client:
        yield Server(running, url, client)
        assert running.process.poll() is None


class Server(NamedTuple):
    running: Running
    url: str
    client: Http2Peer


def test_closing_handshake_and_end_of_stream_are_one_frame(server: Server) -> None:
    client = server.client
    stream = client.open()
    client.send(stream, encode_close(1000, b"done", mask=MASK))
    assert client.last_data(stream) == encode_close(1000, b"done")
    client.send(stream, b"", end=True)
    client.echoes(client.open())


def test_end_of_stream_without_a_close(server: Server) -> None:
    client = server.client
    stream = client.open()
    client.send(stream, encode_frame(TEXT, b"x", mask=MASK)[:-1], end=True)
    assert client.last_data(stream) == b""
    assert lines_of(server.running, 2)[1] == f"stream {stream}: ended with 1006"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(encode_frame(TEXT, b"x"), 1002, id="unmasked"),
        pytest.param(encode_frame(3, b"x", mask=MASK), 1002, id="opcode"),
        pytest.param(encode_frame(TEXT, b"x", rsv=4, mask=MASK), 1002, id="not agreed on"),
        pytest.param(encode_frame(TEXT, b"\xff", mask=MASK), 1007, id="not UTF-8"),
        pytest.param(
            encode_frame(BINARY, b"", length=MIB + 1, length_bits=64, mask=MASK), 1009, id="big"
        ),
    ],
)
def test_bad_frames(server: Server, frame: bytes, code: int) -> None:
    """Told with a CLOSE, in the frame that ends the stream; the others go on."""
    client = server.client
    other = client.open()
    stream = client.open()
    client.echoes(stream)
    client.send(stream, frame + encode_frame(BINARY, b"unheard", mask=MASK))
    last = client.last_data(stream)
    assert (last[0], last[2:4]) == (0x88, code.to_bytes(2, "big"))
    # What is sent behind it is dropped, and takes no window.
    for _ in range(200):
        while client.h2.local_flow_control_window(stream) < WINDOW // 2:
            client.read()
        client.send(stream, bytes(WINDOW // 2))
    client.echoes(other)
    lines = lines_of(server.running, 3)
    assert lines[2].startswith(f"stream {stream}: ended with {code}, ")


def test_bomb(server: Server) -> None:
    client = server.client
    stream = client.open(("sec-websocket-extensions", "permessage-deflate"))
    bomb = PeerDeflater().message(bytes(100 * MIB))
    assert len(bomb) > 100_000
    memory = Memory(server.running.process.pid)
    client.send(stream, encode_frame(BINARY, bomb, rsv=4, mask=MASK)[:60_000])
    last = client.last_data(stream)
    assert (last[0], last[2:4]) == (0x88, (1009).to_bytes(2, "big"))
    if RESIDENT:
        assert memory.more() < 3 * MIB


def test_padding(server: Server) -> None:
    """More than a window of nothing else."""
    client = server.client
    stream = client.open()
    for _ in range(2 * WINDOW // 256):
        while client.h2.local_flow_control_window(stream) < 256:
            client.read()
        client.h2.send_data(stream, b"", pad_length=255)
        client.flush()
    client.echoes(stream)


def test_ping(server: Server) -> None:
    client = server.client
    stream = client.open()
    client.send(stream, encode_frame(PING, b"alive?", mask=MASK))
    pong = encode_frame(PONG, b"alive?")
    assert client.receive(stream, len(pong)) == pong


@pytest.mark.parametrize(
    ("offers", "accepted"),
    [
        ([], None),
        (["permessage-deflate"], "permessage-deflate"),
        (["permessage-deflate; client_max_window_bits"], CHROMIUM_DEFLATE),
        (
            ["x-unknown", "permessage-deflate; server_max_window_bits=10"],
            "permessage-deflate; server_max_window_bits=10",
        ),
        (["permessage-deflate; nonsense, permessage-deflate"], "permessage-deflate"),
        (["permessage-deflate; server_max_window_bits=99"], None),
        (["permessage-deflate; \xff"], None),
        (['"', ";;,"], None),
    ],
)
def test_negotiation(server: Server, offers: list[str], accepted: str | None) -> None:
    client = server.client
    fields = [("sec-websocket-extensions", offer) for offer in offers]
    stream = client.request("CONNECT", "/", WEBSOCKET, VERSION, *fields)
    answer = client.answer(stream)
    assert answer[":status"] == "200"
    assert answer.get("sec-websocket-extensions") == accepted
    # Long enough to be worth compressing.
    client.send(stream, encode_frame(TEXT, b"x" * 1000, mask=MASK))
    echo = client.wait(DataReceived, stream=stream).data
    assert echo[0] == (0x81 if accepted is None else 0xC1)
    assert (len(echo) < 100) == (accepted is not None)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("superchat, chat", "chat"), ("x, echo,chat", "echo"), ("x", None), ("\xff,,", None)],
)
def test_subprotocols(server: Server, offered: str, chosen: str | None) -> None:
    fields = [("sec-websocket-protocol", offered)]
    stream = server.client.request("CONNECT", "/", WEBSOCKET, VERSION, *fields)
    assert server.client.answer(stream).get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/?x=1", [], "200"),
        ("HEAD", "/", [], "200"),
        ("GET", "/nothing", [], "404"),
        ("POST", "/", [], "405"),
        ("CONNECT", "/", [(":protocol", "other"), VERSION], "501"),
        ("CONNECT", "/", [WEBSOCKET], "400"),
        ("CONNECT", "/", [WEBSOCKET, ("sec-websocket-version", "8")], "400"),
    ],
)
def test_ordinary_answers(
    server: Server, method: str, path: str, more: list[tuple[str, str]], status: str
) -> None:
    client = server.client
    stream = client.request(method, path, *more, end=method in ("GET", "HEAD"))
    answer = client.answer(stream)
    assert answer[":status"] == status
    if method == "POST":
        client.send(stream, bytes(1000), end=True)
    client.wait(StreamEnded, stream=stream)
    body = b"".join(event.data for event in client.events if isinstance(event, DataReceived))
    if method == "HEAD":
        assert body == b""
        body = bytes(len(client.wait(DataReceived, stream=client.request("GET", path)).data))
    assert int(answer["content-length"]) == len(body)
    assert (b"new WebSocket" in body) == (method == "GET" and status == "200")
    if path == "/" and WEBSOCKET in more:
        assert answer["sec-websocket-version"] == "13"
    client.echoes(client.open())


# -- streams and connections that end --------------------------------------------------------------


def test_streams_that_are_reset() -> None:
    """200 times what the server has not worked off, since it waits for a window to send the first
    echo: all of it is given back.
    """
    no_window = {SettingCodes.INITIAL_WINDOW_SIZE: 0}
    frame = encode_frame(BINARY, bytes(30_000), mask=MASK)
    with serving(SERVER) as (server, url), talking(url, settings=no_window) as client:
        other = client.open()
        client.h2.increment_flow_control_window(MIB, other)
        for _ in range(200):
            stream = client.open()
            client.send(stream, frame + frame)
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            client.flush()
        client.echoes(other, bytes(50_000))
        lines = [line for line in lines_of(server, 401) if "lost" in line]
    assert lines == [
        f"stream {number}: lost: stream {number} was reset, <ErrorCodes.CANCEL: 8>"
        for number in range(3, 403, 2)
    ]


def test_opened_and_reset_at_once(server: Server) -> None:
    """3,000 streams in a few packets, more than may be open at a time."""
    client = server.client
    for _ in range(3000):
        client.flush = lambda: None  # type: ignore[method-assign]
        stream = client.request("CONNECT", "/", WEBSOCKET, VERSION)
        client.h2.reset_stream(stream, ErrorCodes.CANCEL)
    del client.flush
    client.flush()
    client.echoes(client.open())


def test_peer_that_goes_away(server: Server) -> None:
    client = server.client
    stream = client.open()
    client.h2.close_connection()
    client.flush()
    # What was under way still comes, and h2 has closed.
    client.peer.recv_all()
    expected = f"stream {stream}: lost: the connection has ended: ConnectionResetError("
    assert lines_of(server.running, 2)[1].startswith(expected)
    with talking(server.url) as another:
        another.echoes(another.open())


def test_connection_that_is_reset(server: Server) -> None:
    stream = server.client.open()
    server.client.peer.reset()
    assert f"stream {stream}: lost: " in lines_of(server.running, 2)[1]


def test_http_1(server: Server) -> None:
    stream = server.client.open()
    with raw_connect(port_of(server.url)) as text:
        text.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = text.recv_all()
    assert told[3] == 4  # SETTINGS, and soon it is over
    server.client.echoes(stream)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0\0\4\x08\0\0\0\0\0\0\0\0\0", id="WINDOW_UPDATE of 0"),
        pytest.param(b"\0\0\1\0\0\0\0\0\0x", id="DATA of no stream"),
        pytest.param(b"\0\0\1\1\5\0\0\0\x09\xff", id="fields that are none"),
    ],
)
def test_bad_http_2(server: Server, data: bytes) -> None:
    client = server.client
    stream = client.open()
    client.peer.send(data)
    assert client.wait(ConnectionTerminated).error_code != ErrorCodes.NO_ERROR
    client.until_eof()
    assert f"stream {stream}: lost: " in lines_of(server.running, 2)[1]


def test_more_than_the_window_allows(server: Server) -> None:
    client = server.client
    stream = client.open()
    client.hoarding.add(stream)
    frame = encode_frame(BINARY, bytes(FRAME - 8), mask=MASK)
    assert len(frame) == FRAME
    head = FRAME.to_bytes(3, "big") + b"\0\0" + stream.to_bytes(4, "big")
    with contextlib.suppress(ConnectionError):  # it may be over before all was sent
        for _ in range(100):
            client.peer.send(head, frame)
    client.until_eof()
    assert f"stream {stream}: lost: " in lines_of(server.running, 2)[1]


# -- back-pressure ---------------------------------------------------------------------------------


class Memory:
    """The most that becomes resident in another process from now on, in bytes more than now."""

    def __init__(self, process: int) -> None:
        self.folder = Path("/proc") / str(process)
        (self.folder / "clear_refs").write_text("5")
        self.before = self.read("VmRSS")

    def read(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", (self.folder / "status").read_text())
        assert found
        return int(found[1]) * 1024

    def more(self) -> int:
        return self.read("VmHWM") - self.before


def numbered(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


@each_loop
def test_slow_consumers(loop: str) -> None:
    """Fifty streams whose echoes nobody reads, each with as much as its sender gets rid of, and one
    that goes on beside them.
    """
    size, count = 32_000, 400
    frames = [encode_frame(BINARY, numbered(n, size), mask=MASK) for n in range(count)]
    with serving(SERVER, "--loop", loop) as (server, url), talking(url) as client:
        quick = client.open()
        for number in range(20):
            client.echoes(quick, numbered(number, size))
        slow = [client.open() for _ in range(50)]
        client.hoarding.update(slow)
        sent = dict.fromkeys(slow, 0)
        memory = Memory(server.process.pid)
        for number in range(count):
            client.echoes(quick, numbered(number, size))
            for stream in slow:
                frame = frames[sent[stream]]
                if client.h2.local_flow_control_window(stream) >= len(frame):
                    client.send(stream, frame)
                    sent[stream] += 1
        # Two echoes fill the window here, the third waits for it. It takes a part of the server's
        # window until then; there is room for one message more, or for none where it came
        # together with the second.
        assert set(sent.values()) <= {3, 4}
        # It may keep a window of what came for each stream, and one message that waits.
        if RESIDENT:
            assert memory.more() < 50 * 3 * 64 * 1024
        # And nothing is lost.
        for stream in slow:
            client.hoarding.remove(stream)
            for event in client.events:
                if isinstance(event, DataReceived) and event.stream_id == stream:
                    client.acknowledge(event)
        client.flush()
        for stream in slow:
            for number in range(sent[stream]):
                expected = encode_frame(BINARY, numbered(number, size))
                assert client.receive(stream, len(expected)) == expected


def test_window_of_the_connection() -> None:
    """It is smaller than that of the stream."""
    open_window = {SettingCodes.INITIAL_WINDOW_SIZE: MIB}
    with serving(SERVER) as (_, url), talking(url, settings=open_window, wide=False) as client:
        client.echoes(client.open(), bytes(200_000))


@pytest.mark.parametrize(
    ("tls", "reads"), [(False, True), (True, True), (False, False)], ids=["plain", "tls", "never"]
)
async def test_full_socket(
    tls: bool, reads: bool, pem: Pem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer whose windows are wide open and who reads nothing, until the server leaves, or not
    even then: what was not written is no more than the transport's limit and a frame; a CLOSE
    comes behind what is under way; and the server does not wait for ever. It is in this process,
    to look inside.
    """
    monkeypatch.syspath_prepend(EXAMPLES)
    import echo_http2_server
    import http2_stream
    from http2_stream import WINDOW as LIMIT
    from http2_stream import Http2Connection, Http2Stream

    streams, size = 30, 60_000
    frame = encode_frame(BINARY, numbered(7, size), mask=MASK)
    echo = encode_frame(BINARY, numbered(7, size))
    unsent = []
    received = []
    all_received, resume = asyncio.Event(), threading.Event()
    flush, data_received = Http2Connection.flush, Http2Stream.data_received

    def watched_flush(connection: Any) -> None:
        flush(connection)
        unsent.append(connection.writer.transport.get_write_buffer_size())

    def watched_data(stream: Any, event: Any) -> None:
        data_received(stream, event)
        received.append(len(event.data))
        if sum(received) == streams * len(frame):
            all_received.set()

    for module in (echo_http2_server, http2_stream):
        monkeypatch.setattr(module, "PATIENCE", TIME_LIMIT if reads else 0.1)
    monkeypatch.setattr(Http2Connection, "flush", watched_flush)
    monkeypatch.setattr(Http2Stream, "data_received", watched_data)

    def limit_kernel(sock: socket.socket) -> None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 65_536)

    def converse(port: int) -> None:
        with raw_connect(port, client_context) as peer:
            limit_kernel(peer.sock)
            client = Http2Peer(peer, settings={SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
            opened = [client.open() for _ in range(streams)]
            for stream in opened:
                client.send(stream, frame)
            resume.wait()
            for stream in opened if reads else ():
                expected = echo + encode_close(1001)
                assert client.receive(stream, len(expected)) == expected
                client.send(stream, encode_close(1001, mask=MASK))
            client.until_eof()

    server_context = client_context = None
    if tls:
        server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_context.load_cert_chain(pem.cert)
        server_context.set_alpn_protocols(["h2"])
        client_context = ssl.create_default_context(cafile=pem.ca)
        client_context.set_alpn_protocols(["h2"])
    echo_server = echo_http2_server.EchoServer()
    listening = socket.create_server(("127.0.0.1", 0))
    limit_kernel(listening)
    port = listening.getsockname()[1]
    server = await asyncio.start_server(echo_server.connected, sock=listening, ssl=server_context)
    client = asyncio.ensure_future(in_thread(converse, port))
    try:
        # Whatever waits for room, all that comes is read.
        await all_received.wait()
    finally:
        server.close()
        leaving = asyncio.ensure_future(echo_server.goodbye())
        try:
            if reads:
                while len(asyncio.all_tasks()) < 2 * streams:  # a goodbye for each
                    await asyncio.sleep(0)
            else:
                await leaving
        finally:
            resume.set()
        await client
        await leaving
    assert max(unsent) > LIMIT  # it was full
    assert max(unsent) < LIMIT + 2 * FRAME


def test_one_who_asks_and_does_not_read(server: Server) -> None:
    """A flood of PINGs: their answers wait up to 1 MiB, then it is over."""
    stream = server.client.open()
    server.client.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    memory = Memory(server.running.process.pid)
    pings = b"\0\0\x08\6\0\0\0\0\0" + bytes(8)
    with pytest.raises(ConnectionError):
        while True:
            server.client.peer.send(pings * 1000)
    assert f"stream {stream}: lost: " in lines_of(server.running, 2)[1]
    if RESIDENT:
        assert memory.more() < 4 * MIB
    with talking(server.url) as another:
        another.echoes(another.open())


# -- the client, and servers that do not do as they should -----------------------------------------


def told(script: Callable[[Http2Peer], object], *args: object) -> str:
    """What the client complains of."""
    with RawServer(serves(script)) as server:
        with example(CLIENT, server.url(), "--streams", 1, *args) as client:
            output, complaints = client.fail()
    assert output == ""
    return complaints.rstrip("\n")


def test_server_without_websockets() -> None:
    with RawServer(lambda peer: Http2Peer(peer, False).until_eof()) as server:
        with example(CLIENT, server.url()) as client:
            assert client.fail() == ("", "the server has no WebSockets over HTTP/2\n")


def test_server_without_http2(pem: Pem) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem.cert)
    with RawServer(RawPeer.recv_all, context) as server:
        with example(CLIENT, server.url(), "--ca", pem.ca) as client:
            assert client.fail() == ("", "the server does not speak HTTP/2\n")


def test_server_of_http_1() -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.end_sending()
        peer.recv_all()

    with RawServer(script) as server, example(CLIENT, server.url()) as client:
        assert "the server has no WebSockets" in client.fail()[1]


def test_server_that_says_nothing() -> None:
    with RawServer(RawPeer.recv_all) as server:
        with example(CLIENT, server.url(), "--timeout", 0.1) as client:
            assert client.fail() == ("", "no answer within 0.1 seconds\n")


def test_refusal() -> None:
    def script(server: Http2Peer) -> None:
        server.accept(status="403")
        server.until_eof()

    assert told(script) == "the server answered 403"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("x-unknown", "unrecognized extension x-unknown"),
        ("permessage-deflate, permessage-deflate", "unrecognized extension permessage-deflate"),
        ("permessage-deflate; server_max_window_bits=99", "server_max_window_bits"),
    ],
)
def test_extensions_that_do_not_answer_the_offer(answer: str, complaint: str) -> None:
    def script(server: Http2Peer) -> None:
        stream = server.accept(("sec-websocket-extensions", answer))
        assert server.wait(StreamReset, stream=stream).error_code == ErrorCodes.CANCEL
        server.until_eof()

    assert complaint in told(script)


def test_server_resets() -> None:
    def script(server: Http2Peer) -> None:
        server.h2.reset_stream(server.accept(), ErrorCodes.INTERNAL_ERROR)
        server.flush()
        server.until_eof()

    assert told(script) == "stream 1 was reset, <ErrorCodes.INTERNAL_ERROR: 2>"


def test_server_goes_away() -> None:
    def script(server: Http2Peer) -> None:
        server.accept()
        server.h2.close_connection()
        server.flush()
        # What was under way still comes, and h2 has closed.
        server.peer.recv_all()

    assert "GOAWAY" in told(script)


def test_wrong_echo() -> None:
    def script(server: Http2Peer) -> None:
        server.send(server.accept(), encode_frame(TEXT, b"something else"))
        server.until_eof()

    assert told(script) == "stream 1: 'something else' is not the 0."


def test_server_sends_what_is_no_frame() -> None:
    def script(server: Http2Peer) -> None:
        stream = server.accept()
        server.send(stream, encode_frame(TEXT, b"masked", mask=MASK))
        while not (event := server.wait(DataReceived, stream=stream)).stream_ended:
            pass
        assert event.data[0] == 0x80 | CLOSE
        server.until_eof()

    assert told(script) == "stream 1: 0 echoes, closed with 1002"


def test_too_many_streams() -> None:
    with serving(SERVER) as (_, url), example(CLIENT, url, "--streams", 101) as client:
        assert "Max outbound streams is 100" in client.fail()[1]
