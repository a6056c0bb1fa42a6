"""The programs without asyncio, on picows.sansio: with each other, with ours on asyncio, with the
package `websockets`, and with peers made by hand. And the two rules of back-pressure, by programs
of which one holds the other up (backpressure.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aio.deflate_peer import PeerDeflater
from aio.measured import MIB, linux_only
from aio.traffic import frame_to
from examples.support import (
    EXAMPLES,
    Running,
    command,
    each_ending,
    example,
    port_of,
    serving,
    started,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawFrame,
    RawPeer,
    RawServer,
    encode_close,
    encode_frame,
    field,
    raw_connect,
    upgrade_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER = "echo_trio_server.py"
ASYNCIO_CLIENT = "echo_client.py"
TRIO_CLIENT = "echo_trio_client.py"
BLOCKING_CLIENT = "echo_blocking_client.py"

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"

each_client = pytest.mark.parametrize("client", [TRIO_CLIENT, BLOCKING_CLIENT])
plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


# -- with whom they talk ---------------------------------------------------------------------------


@contextlib.contextmanager
def websockets_server(context: Any) -> Iterator[str]:
    def handler(connection: ServerConnection) -> None:
        assert connection.response is not None
        agreed = connection.response.headers["Sec-WebSocket-Extensions"]
        assert agreed.startswith("permessage-deflate")
        for message in connection:
            connection.send(message)

    with serve(handler, "127.0.0.1", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws{'s' if context else ''}://localhost:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def any_server(name: str, tls: bool, certificate_files: Any, certificates: Any) -> Iterator[str]:
    if name == "websockets":
        with websockets_server(certificates.server if tls else None) as url:
            yield url
        return
    if tls and name == "echo_server.py":
        name = "echo_server_ssl.py"
    with serving(name, *(("--cert", certificate_files.cert) if tls else ())) as (server, url):
        yield url
        assert server.end(signal.SIGTERM) == ""


@each_client
@plain_and_tls
@pytest.mark.parametrize("server", [SERVER, "echo_server.py", "websockets"])
def test_our_clients(
    server: str, tls: bool, client: str, certificate_files: Any, certificates: Any
) -> None:
    with any_server(server, tls, certificate_files, certificates) as url:
        assert url.startswith("wss:" if tls else "ws:")
        # The second message is worth to be compressed.
        for count, message in ((0, ""), (1, "na\u00efve \u2615"), (300, "x" * 20_000)):
            args = (url, "--count", count, "--message", message, "--ca", certificate_files.ca)
            with example(client, *args) as running:
                assert running.end() == f"{count} echoes, closed by the server with 1000\n"


@plain_and_tls
def test_our_server_and_an_asyncio_client(tls: bool, certificate_files: Any) -> None:
    with any_server(SERVER, tls, certificate_files, None) as url:
        args = (url, "--count", 3, "--interval", 0, "--ca", certificate_files.ca)
        with example(ASYNCIO_CLIENT, *args) as client:
            assert client.end().endswith("\n3 echoes, closed by the server with 1000\n")


@plain_and_tls
def test_our_server_and_a_client_of_websockets(
    tls: bool, certificate_files: Any, certificates: Any
) -> None:
    with any_server(SERVER, tls, certificate_files, certificates) as url:
        context = certificates.client if tls else None
        with connect(url, ssl=context, proxy=None) as client:
            assert client.response is not None
            agreed = client.response.headers["Sec-WebSocket-Extensions"]
            assert agreed.startswith("permessage-deflate")
            for message in ("", "na\u00efve", b"", b"\xff", "x" * 300_000, bytes(1_000_000)):
                client.send(message)
                assert client.recv() == message
            client.send(["in ", "fragments", " of one message"])
            assert client.recv() == "in fragments of one message"
            assert client.ping().wait(10)
            client.close(4000, "na\u00efve")
            assert (client.close_code, client.close_reason) == (4000, "na\u00efve")


def test_our_server_and_a_client_of_websockets_without_compression() -> None:
    with serving(SERVER) as (_, url), connect(url, compression=None, proxy=None) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        client.send("x" * 1000)
        assert client.recv() == "x" * 1000


def test_tls_is_verified(certificate_files: Any) -> None:
    with serving(SERVER, "--cert", certificate_files.cert) as (server, url):
        for client in (TRIO_CLIENT, BLOCKING_CLIENT):
            with example(client, url) as running:
                output, complaints = running.fail()
                assert output == ""
                assert "CERTIFICATE_VERIFY_FAILED" in complaints
                assert "Traceback" not in complaints
        # What is no TLS at all ends, and the server goes on.
        with raw_connect(port_of(url)) as peer:
            peer.send(b"GET / HTTP/1.1\r\n\r\n")
            peer.recv_all()
        with example(TRIO_CLIENT, url, "--count", 1, "--ca", certificate_files.ca) as running:
            running.end()
        assert server.end(signal.SIGINT) == ""


# -- the server ------------------------------------------------------------------------------------


@contextlib.contextmanager
def upgraded(url: str, *fields: bytes, then: bytes = b"") -> Iterator[RawPeer]:
    with raw_connect(port_of(url)) as peer:
        assert peer.request_upgrade(*fields, then=then).startswith(b"HTTP/1.1 101 ")
        yield peer


def to_server(opcode: int, payload: bytes = b"", **kwargs: Any) -> bytes:
    return frame_to("server", opcode, payload, **kwargs)


def close_to_server(code: int, reason: bytes = b"") -> bytes:
    return to_server(CLOSE, code.to_bytes(2, "big") + reason)


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    """A server for many tests: it outlives whatever its clients do, and says nothing of it."""
    # Without the limit of `started`, which is that of one test.
    with subprocess.Popen(
        command(SERVER, "--port", 0), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            server = Running(process)
            yield url_of(server)
            assert server.end(signal.SIGINT) == ""
        finally:
            process.kill()


def url_of(server: Running) -> str:
    words = server.line().split()
    assert words[:2] == ["listening", "on"], (words, server.process.communicate())
    return words[2]


@pytest.mark.parametrize(
    "close", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0b\xb8" + b"r" * 123, b"\x13\x87"]
)
def test_server_answers_a_close_and_hangs_up_first(shared: str, close: bytes) -> None:
    with upgraded(shared) as peer:
        # What stands behind the CLOSE is of no interest.
        peer.send(to_server(TEXT, b"1"), to_server(CLOSE, close), to_server(TEXT, b"2"))
        assert peer.recv_frame() == RawFrame(TEXT, b"1")
        assert peer.recv_frame() == RawFrame(CLOSE, close)
        assert peer.recv_all() == b""


def test_server_answers_a_ping_between_fragments(shared: str) -> None:
    with upgraded(shared) as peer:
        peer.send(to_server(TEXT, "na\u00ef".encode()[:3], fin=False), to_server(PING, b"alive?"))
        assert peer.recv_frame() == RawFrame(PONG, b"alive?")
        peer.send(to_server(PONG), to_server(CONTINUATION, "na\u00efve".encode()[3:]))
        assert peer.recv_frame() == RawFrame(TEXT, "na\u00efve".encode())


def test_server_hears_what_comes_with_the_request_or_bit_by_bit(shared: str) -> None:
    frames = to_server(TEXT, b"early") + to_server(BINARY, bytes(range(256)))
    with upgraded(shared, then=frames) as peer:
        assert peer.recv_frame() == RawFrame(TEXT, b"early")
        assert peer.recv_frame() == RawFrame(BINARY, bytes(range(256)))
    with raw_connect(port_of(shared)) as peer:
        for octet in upgrade_request() + frames:
            peer.send(bytes([octet]))
        assert peer.recv_head().startswith(b"HTTP/1.1 101 ")
        assert peer.recv_frame() == RawFrame(TEXT, b"early")


BOMB = PeerDeflater().message(bytes(2 * MIB))
VIOLATIONS = {
    "not masked": (1002, encode_frame(TEXT, b"x")),
    "reserved opcode": (1002, to_server(3)),
    "no beginning": (1002, to_server(CONTINUATION, b"x")),
    "bad UTF-8": (1007, to_server(TEXT, b"\xc3\x28")),
    "half a close code": (1002, to_server(CLOSE, b"\x03")),
    "declared too large": (1009, to_server(BINARY, length=2**40)),
    "too large together": (
        1009,
        to_server(BINARY, bytes(MIB), fin=False) + to_server(CONTINUATION, b"x"),
    ),
    "inflates to too much": (1009, to_server(BINARY, BOMB, rsv=4)),
    "not deflated": (1007, to_server(BINARY, b"\xff\xff\xff", rsv=4)),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_server_closes_upon_a_violation(shared: str, name: str) -> None:
    code, frames = VIOLATIONS[name]
    with upgraded(shared, DEFLATE) as peer:
        # Bytes that nobody will read must not turn the goodbye into a reset.
        peer.send(to_server(TEXT, b"good"), frames, to_server(BINARY, bytes(300_000)))
        assert peer.recv_frame().payload == b"good"
        close = peer.recv_frame()
        assert (close.opcode, int.from_bytes(close.payload[:2], "big")) == (CLOSE, code)
        assert peer.recv_some() == b""


REFUSED = {
    "no upgrade": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    "endless": (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000, 431),
    "other version": (upgrade_request().replace(b"Version: 13", b"Version: 8"), 426),
    "short key": (upgrade_request(key=b"c2hvcnQ="), 400),
    "POST": (upgrade_request().replace(b"GET", b"POST"), 405),
}


@pytest.mark.parametrize("name", REFUSED)
def test_server_refuses_what_is_no_websocket(shared: str, name: str) -> None:
    request, status = REFUSED[name]
    with raw_connect(port_of(shared)) as peer:
        peer.send(request)
        head = peer.recv_head()
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        if status == 426:
            assert field(head, b"Sec-WebSocket-Version") == b"13"
        assert peer.recv_some() == b""


def test_server_and_peers_that_vanish(shared: str) -> None:
    port = port_of(shared)
    raw_connect(port).close()
    for data in (b"", b"GET / HTTP/1.1\r\nHost:", upgrade_request()):
        for leave in (RawPeer.close, RawPeer.reset, RawPeer.end_sending):
            with raw_connect(port) as peer:
                peer.send(data)
                leave(peer)
                if leave is RawPeer.end_sending:
                    peer.recv_all()
    for data in (b"", to_server(BINARY, bytes(100))[:50], to_server(TEXT, b"x", fin=False)):
        for leave in (RawPeer.close, RawPeer.reset, RawPeer.end_sending):
            with upgraded(shared) as peer:
                peer.send(data)
                leave(peer)
                if leave is RawPeer.end_sending:
                    assert peer.recv_all() == b""
    # It goes away while its echo is on the way.
    with upgraded(shared) as peer:
        peer.send(*(to_server(BINARY, bytes(100_000)) for _ in range(10)))
        peer.reset()
    with example(BLOCKING_CLIENT, shared, "--count", 1) as client:
        client.end()


@plain_and_tls
@each_ending
def test_server_says_goodbye_when_it_is_stopped(
    tls: bool, ending: signal.Signals, certificate_files: Any, certificates: Any
) -> None:
    args = ("--cert", certificate_files.cert) if tls else ()
    context = certificates.client if tls else None
    with serving(SERVER, *args) as (server, url), raw_connect(port_of(url), context) as silent:
        with connect(url, ssl=context, proxy=None) as client:
            client.send("hello")
            assert client.recv() == "hello"
            server.process.send_signal(ending)
            with pytest.raises(ConnectionClosed):
                client.recv()
            assert client.close_code == 1001
        assert silent.recv_all() == b""  # it has not asked for anything yet
        assert server.end() == ""


def test_server_does_not_wait_for_those_who_do_not_answer() -> None:
    """One says nothing, one sends on and on, one does not read."""
    with serving(SERVER) as (server, url), contextlib.ExitStack() as stack:
        silent, chatty, deaf = (stack.enter_context(upgraded(url)) for _ in range(3))
        for peer in (silent, chatty):
            peer.send(to_server(TEXT, b"x"))
            assert peer.recv_frame().payload == b"x"
        deaf.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.sock.sendall(to_server(BINARY, bytes(100_000)))
        server.process.send_signal(signal.SIGTERM)
        assert silent.recv_frame() == RawFrame(CLOSE, b"\x03\xe9")
        assert chatty.recv_frame() == RawFrame(CLOSE, b"\x03\xe9")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while True:
                chatty.send(to_server(TEXT, b"and another thing"))
        assert silent.recv_all() == b""
        assert server.end() == ""


def test_server_stops_no_other_for_one_that_does_not_read(shared: str) -> None:
    with upgraded(shared) as deaf:
        deaf.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.sock.sendall(to_server(BINARY, bytes(100_000)))
        with example(TRIO_CLIENT, shared, "--count", 100) as client:
            assert client.end() == "100 echoes, closed by the server with 1000\n"


def test_port_that_is_taken(shared: str) -> None:
    with example(SERVER, "--port", port_of(shared)) as server:
        assert "OSError" in server.fail()[1]


# -- the clients -----------------------------------------------------------------------------------


def until_close(peer: RawPeer) -> bytes:
    """What the client's CLOSE says."""
    while (frame := peer.recv_frame()).opcode != CLOSE:
        pass
    assert frame.masked
    return frame.payload


def fails(client: str, script: Callable[[RawPeer], object], words: str, *args: object) -> None:
    with RawServer(script) as server, example(client, server.url(), *args) as running:
        output, complaints = running.fail()
    assert output == ""
    assert words in complaints
    assert complaints.count("\n") == 1


@each_client
def test_client_asks_as_it_should(client: str) -> None:
    def script(peer: RawPeer) -> None:
        head = peer.accept_upgrade()
        assert head.startswith(b"GET /chat?room=1 HTTP/1.1\r\n")
        assert field(head, b"Host") == f"127.0.0.1:{server.port}".encode()
        assert (field(head, b"Sec-WebSocket-Extensions") or b"").startswith(b"permessage-deflate")
        assert until_close(peer) == b"\x03\xe8"
        peer.send(encode_close(1000))

    with RawServer(script) as server:
        with example(client, server.url("/chat?room=1"), "--count", 0) as running:
            assert running.end() == "0 echoes, closed by the server with 1000\n"


@each_client
def test_client_answers_pings_and_waits_for_the_server_to_hang_up(client: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=encode_frame(PING, b"early"))
        frames = sorted(peer.recv_frame() for _ in range(2))
        assert frames == [
            RawFrame(TEXT, b"Hello, world 0", masked=True),
            RawFrame(PONG, b"early", masked=True),
        ]
        peer.send(encode_frame(TEXT, b"Hello, ", fin=False), encode_frame(PING, b"between"))
        assert peer.recv_frame() == RawFrame(PONG, b"between", masked=True)
        peer.send(encode_frame(CONTINUATION, b"world 0"))
        assert until_close(peer) == b"\x03\xe8"
        # It has to wait for the answer, whatever comes ahead of it.
        peer.send(encode_frame(PING, b"late"), encode_frame(TEXT, b"more"), encode_close(1000))
        with pytest.raises(subprocess.TimeoutExpired):
            running[0].process.wait(0.3)
        peer.end_sending()
        assert peer.recv_all() == b""

    running: list[Running] = []
    with RawServer(script) as server, example(client, server.url(), "--count", 1) as program:
        running.append(program)
        assert program.end() == "1 echoes, closed by the server with 1000\n"


@each_client
def test_server_that_goes_first(client: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=encode_close(1001, b"back in a minute"))
        assert until_close(peer)[:2] == b"\x03\xe9"
        peer.end_sending()
        peer.recv_all()

    fails(client, script, "closed with 1001")


@each_client
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nnope", "the server refuses with 403"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello, browser", "the server refuses with 200"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\n\r\n", "no WebSocket there: "),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no WebSocket there: "),
        (b"", "no WebSocket there: "),
        (b"HTTP/1.1 101 ", "no WebSocket there: "),
    ],
)
def test_client_and_what_is_no_websocket(client: str, answer: bytes, words: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_head()
        peer.send(answer)
        peer.end_sending()
        peer.recv_all()

    fails(client, script, words)


@each_client
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(encode_frame(TEXT, b"Hello, world 1"), 1008, id="another message"),
        pytest.param(encode_frame(BINARY, b"Hello, world 0"), 1008, id="another type"),
        pytest.param(encode_frame(TEXT, b"x", mask=b"mask"), 1002, id="masked"),
        pytest.param(encode_frame(TEXT, b"\xff"), 1007, id="no text"),
        pytest.param(encode_frame(TEXT, length=2**30), 1009, id="too large"),
        pytest.param(encode_frame(TEXT, BOMB, rsv=4), 1009, id="inflates to too much"),
    ],
)
def test_client_and_answers_that_are_none(client: str, frame: bytes, code: int) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(DEFLATE, then=frame)
        assert until_close(peer)[:2] == code.to_bytes(2, "big")
        peer.send(encode_close(code))
        peer.end_sending()
        peer.recv_all()

    fails(client, script, "no echo of 'Hello, world 0'" if code == 1008 else f"closed with {code}")


@each_client
@pytest.mark.parametrize("leave", [RawPeer.close, RawPeer.reset], ids=["end", "reset"])
def test_server_that_vanishes(client: str, leave: Callable[[RawPeer], None]) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=encode_frame(TEXT, b"Hello")[:3])
        peer.recv_frame()
        leave(peer)

    with RawServer(script) as server, example(client, server.url()) as running:
        output, complaints = running.fail()
    assert output == ""
    assert "1006" in complaints or "lost" in complaints or "Error: " in complaints
    assert complaints.count("\n") == 1


PATIENCE = {TRIO_CLIENT: "--patience", BLOCKING_CLIENT: "--timeout"}


@each_client
@pytest.mark.parametrize("at", ["handshake", "echo", "close"])
def test_server_that_says_nothing(client: str, at: str) -> None:
    def script(peer: RawPeer) -> None:
        if at != "handshake":
            peer.accept_upgrade()
        if at == "close":
            peer.send_frame(TEXT, peer.recv_frame().payload)
        peer.recv_all()

    words = "nothing of the server within 0.3 seconds" if client == TRIO_CLIENT else "TimeoutError"
    fails(client, script, words, "--count", 1, PATIENCE[client], 0.3)


@each_client
@pytest.mark.parametrize("frame", [encode_frame(PONG), encode_frame(3)], ids=["good", "bad"])
def test_server_that_sends_for_ever_behind_the_goodbye(client: str, frame: bytes) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade(then=encode_frame(TEXT, b"Hello, world 0"))
        with contextlib.suppress(OSError):
            while True:
                peer.send(frame * 1000)

    with RawServer(script) as server:
        args = (server.url(), "--count", 1, PATIENCE[client], 0.5)
        with example(client, *args) as running:
            assert running.fail()[0] == ""


@each_client
def test_client_without_a_server(client: str) -> None:
    with serving(SERVER) as (_, url):
        pass
    with example(client, url) as running:
        output, complaints = running.fail()
    assert output == ""
    assert "onnect" in complaints
    assert complaints.count("\n") == 1


@each_client
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "127.0.0.1:80", "ws://", "ws://h:99999/", "ws://h/\x7f", ""]
)
def test_client_and_what_is_no_url(client: str, url: str) -> None:
    with example(client, url) as running:
        assert running.fail() == ("", f"{url!r} is no URL of a WebSocket\n")


@each_client
@each_ending
def test_client_says_goodbye_when_it_is_stopped(client: str, ending: signal.Signals) -> None:
    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        for number in range(4):
            assert peer.recv_frame().opcode == TEXT
            if number < 3:
                peer.send_frame(TEXT, f"Hello, world {number}".encode())
        # For the trio client, so that the echoes are counted: they come ahead of its PONG.
        peer.send_frame(PING)
        assert peer.recv_frame().opcode == PONG
        running[0].process.send_signal(ending)
        assert until_close(peer) == b"\x03\xe8"
        peer.send(encode_close(1000))

    running: list[Running] = []
    with RawServer(script) as server, example(client, server.url(), "--count", 4) as program:
        running.append(program)
        assert program.end() == "3 echoes, closed by the server with 1000\n"


@each_client
@each_ending
@pytest.mark.parametrize("at", ["handshake", "goodbye"])
def test_client_that_is_stopped_where_it_can_only_go(
    client: str, ending: signal.Signals, at: str
) -> None:
    def script(peer: RawPeer) -> None:
        if at == "handshake":
            peer.recv_head()
        else:
            peer.accept_upgrade()
            peer.recv_frame()
            running[0].process.send_signal(ending)
            assert until_close(peer) == b"\x03\xe8"
        running[0].process.send_signal(ending)
        assert peer.recv_all() == b""

    running: list[Running] = []
    with RawServer(script) as server, example(client, server.url(), "--count", 1) as program:
        running.append(program)
        assert program.fail() == ("", "interrupted\n")


# -- back-pressure ---------------------------------------------------------------------------------


BACKPRESSURE = Path(__file__).with_name("backpressure.py")
COUNT = 1500  # messages, 47 MiB


@pytest.fixture
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs find the examples, and the helpers of the suite."""
    folders = [os.environ["PYTHONPATH"], str(BACKPRESSURE.parents[1]), str(EXAMPLES)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


def role(name: str, *args: str) -> contextlib.AbstractContextManager[Running]:
    path, count = str(BACKPRESSURE), str(COUNT)
    return started(sys.executable, "-W", "default", path, name, count, *args)


def check_both(holding: Running, flooding: Running, url: str) -> None:
    """`flooding` is held up by `holding`, until that is told to go on."""
    assert holding.line() == "holds\n"
    # It can go no further: what it sent, nobody has taken.
    words = flooding.line().split()
    assert words[:2] == ["stopped", "behind"], words
    assert 0 < int(words[2]) < 8 * MIB
    # The others do not have to wait.
    with example(BLOCKING_CLIENT, url, "--count", 2) as other:
        assert other.end() == "2 echoes, closed by the server with 1000\n"
    holding.process.send_signal(signal.SIGUSR1)
    received, sent = json.loads(holding.line()), json.loads(flooding.line())
    assert (received["count"], received["wrong"]) == (COUNT, 0)
    assert sent["count"] == COUNT
    # Some messages on their way through, and Python's own; not the 47 MiB.
    assert received["memory"] < 4 * MIB
    assert sent["memory"] < 4 * MIB


@linux_only
@pytest.mark.usefixtures("_path")
def test_a_slow_server_stops_the_client_and_memory_stays_flat() -> None:
    """Rule 1: who reads no faster than it works holds one read, and TCP the rest."""
    with role("slow_server") as server:
        url = url_of(server)
        with role("flooding_trio_client", url) as client:
            check_both(server, client, url)
            assert client.line() == "0 echoes, closed by the server with 1000\n"
            client.end()
        assert server.end(signal.SIGTERM) == ""


@linux_only
@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("name", ["lazy_trio_client", "lazy_blocking_client"])
def test_a_client_that_does_not_read_stops_the_server_and_memory_stays_flat(name: str) -> None:
    """Rule 2: who collects nothing to be sent is stopped where it sends."""
    with role("flooding_server") as server:
        url = url_of(server)
        with role(name, url) as client:
            check_both(client, server, url)
            client.end()
        assert server.end(signal.SIGTERM) == ""
