"""WebSockets over Unix sockets: ws_create_server(path=...) and ws+unix://, and the file's life."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aio.traffic import Recorder, octets, our_socket, some_iterations
from conformance.support import PEERS_PYTHON, clean_environment

import loops
from picows import (
    WSFrame,
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidStatusError,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)
from raw_peer import CLOSE, TEXT, TIMEOUT, RawPeer, encode_frame, field, in_thread

# The client's end of a Unix socket is never TLS; the server's is in some tests of their own.
pytestmark = pytest.mark.net(tls=(False,))
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))

SHORT = 0.4 * loops.TIME_FACTOR


@pytest.fixture
def folder() -> Iterator[Path]:
    """pytest's own tmp_path is too long for some: a socket's path has 107 bytes."""
    name = tempfile.mkdtemp(prefix="picows")
    yield Path(name)
    shutil.rmtree(name)


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "x.sock")


def url_of(path: str, target: str = "/") -> str:
    return f"ws+unix://{quote(path)}:{target}"


def echo(transport: WSTransport, frame: WSFrame) -> None:
    if frame.msg_type == WSMsgType.CLOSE:
        transport.send_close(frame.get_close_code(), frame.get_close_message())
        transport.disconnect()
    else:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


async def serve(net: Any, path: str, factory: Any = None, **kwargs: Any) -> Any:
    kwargs.setdefault("use_aiofastnet", net.use_aiofastnet)
    return await ws_create_server(factory or (lambda request: Recorder(echo)), path=path, **kwargs)


async def connect(net: Any, path: str, target: str = "/", **kwargs: Any) -> Any:
    kwargs.setdefault("use_aiofastnet", net.use_aiofastnet)
    return await ws_connect(Recorder, url_of(path, target), **kwargs)


async def leave(transport: Any) -> None:
    transport.disconnect()
    await transport.wait_disconnected()


async def check_echo(net: Any, path: str) -> None:
    """Whoever serves at `path` is one of ours."""
    transport, listener = await connect(net, path)
    transport.send(WSMsgType.TEXT, b"alive?")
    await listener.until_frames(1)
    assert listener.payloads == [b"alive?"]
    await leave(transport)


def raw_unix_connect(path: str, context: ssl.SSLContext | None = None) -> RawPeer:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(path)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    return RawPeer(sock)


@contextlib.asynccontextmanager
async def raw_unix_server(path: str, script: Any) -> AsyncIterator[None]:
    """Runs `script(peer)` in a thread for one connection, as RawServer does for TCP."""

    def work() -> None:
        sock, _ = listening.accept()
        with RawPeer(sock) as peer:
            script(peer)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(TIMEOUT)
        running = asyncio.ensure_future(in_thread(work))
        yield
        await running


# -- there and back --------------------------------------------------------------------------------


async def test_both_ways(net: Any, path: str) -> None:
    """Also more than the socket takes at once, in both directions."""
    served = Recorder(echo)
    requests: list[WSUpgradeRequest] = []

    def route(request: WSUpgradeRequest) -> WSListener:
        requests.append(request)
        return served

    server = await serve(net, path, route)
    transport, listener = await connect(net, path, "/feed?depth=5&x=a:b")
    assert transport.request.path == requests[0].path == b"/feed?depth=5&x=a:b"
    assert transport.request.headers["Host"] == requests[0].headers["Host"] == "localhost"
    assert not transport.is_secure
    assert not served.transport.is_secure
    messages = [b"", b"small", octets(100_000), octets(5_000_000)]
    for message in messages:
        transport.send(WSMsgType.BINARY, message)
    await listener.until_frames(len(messages))
    assert listener.payloads == messages
    sock = our_socket(transport)
    assert sock.family == socket.AF_UNIX
    assert sock.getpeername() == path
    transport.send_close(1000, b"bye")
    await listener.until_gone()
    assert served.payloads[-1] == b"\x03\xe8bye"
    await server.shutdown()


@pytest.mark.parametrize("target", ["", ":/", ":/a?b", ":/a:b", ":/%3A"])
@one
async def test_what_stands_behind_the_socket(net: Any, path: str, target: str) -> None:
    heads = []

    def script(peer: RawPeer) -> None:
        heads.append(peer.accept_upgrade(then=encode_frame(TEXT, b"first")))
        peer.recv_all()

    async with raw_unix_server(path, script):
        transport, listener = await ws_connect(Recorder, f"ws+unix://{path}{target}")
        await listener.until_frames(1)
        await leave(transport)
    (head,) = heads
    assert head.split(b" ")[1].decode() == (target.removeprefix(":") or "/")
    assert field(head, b"Host") == b"localhost"
    assert field(head, b"Authorization") is None


@pytest.mark.parametrize("name", ["a:b", "a%3Ab", "a b", "ü", "a?b#c", "a@b", "[::1]", "'\"\\{}"])
@one
async def test_a_path_of_odd_characters(net: Any, folder: Path, name: str) -> None:
    path = str(folder / name)
    server = await serve(net, path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    await check_echo(net, path)
    await server.shutdown()
    assert not os.listdir(folder)


async def test_extra_headers_and_a_host_of_the_users(net: Any, path: str) -> None:
    requests: list[WSUpgradeRequest] = []
    server = await serve(net, path, requests.append)
    with pytest.raises(WSInvalidStatusError, match="404"):
        await connect(net, path, extra_headers={"host": "docker", "X-A": "b"})
    assert requests[0].headers["Host"] == "docker"
    assert requests[0].headers["X-A"] == "b"
    await server.shutdown()


async def test_with_a_socket_of_the_users(net: Any, path: str) -> None:
    """Connected, or not: then it is connected to the URL's path."""
    server = await serve(net, path)
    for connects in (False, True):
        sock = socket.socket(socket.AF_UNIX)
        if connects:
            sock.connect(path)
        seen = []

        def factory(url: Any) -> socket.socket:
            seen.append(url)
            return sock

        transport, _ = await connect(net, path, socket_factory=factory)
        assert our_socket(transport).fileno() == sock.fileno()
        assert (seen[0].unix_path, seen[0].scheme) == (path, "ws+unix")
        await leave(transport)
        await some_iterations()
        assert sock.fileno() == -1
    await server.shutdown()


@one
async def test_an_unconnected_socket_of_tcp_leads_to_no_path(net: Any, path: str) -> None:
    """Nor to whatever serves HTTP on this machine."""
    sock = socket.socket()
    with pytest.raises(ValueError, match="socket_factory"):
        await connect(net, path, socket_factory=lambda url: sock)
    assert sock.fileno() == -1


async def test_options_of_the_socket(net: Any, path: str) -> None:
    def narrow(transport: WSTransport) -> None:
        sock = our_socket(transport)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
        narrowed.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))

    narrowed: list[int] = []
    server = await serve(net, path, lambda request: Recorder(echo, greet=narrow))
    transport, listener = await connect(net, path)
    narrow(transport)
    transport.send(WSMsgType.BINARY, octets(1_000_000))
    await listener.until_frames(1)
    assert listener.payloads == [octets(1_000_000)]
    assert narrowed == [60_000, 60_000]
    await leave(transport)
    await server.shutdown()


# -- redirects -------------------------------------------------------------------------------------


async def test_a_redirect_within_the_socket(net: Any, path: str) -> None:
    """It keeps credentials; and a Location that names another socket is refused."""
    requests: list[WSUpgradeRequest] = []

    def route(request: WSUpgradeRequest) -> Any:
        requests.append(request)
        location = {b"/": "/new?x", b"/bad": f"ws+unix://{path}:/new"}.get(request.path)
        if location is None:
            return Recorder()
        response = WSUpgradeResponse.create_redirect_response(307, location)
        return WSUpgradeResponseWithListener(response, None)

    server = await serve(net, path, route)
    transport, _ = await connect(net, path, extra_headers={"Cookie": "mine", "Host": "docker"})
    assert transport.request.path == b"/new?x"
    assert [each.headers["Cookie"] for each in requests] == ["mine"] * 2
    assert [each.headers["Host"] for each in requests] == ["docker"] * 2
    await leave(transport)
    with pytest.raises(WSInvalidHeaderError, match="Location"):
        await connect(net, path, "/bad")
    await server.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_a_redirect_from_the_socket_into_the_network(net: Any, path: str) -> None:
    """Without what was for the socket's server."""
    requests: list[WSUpgradeRequest] = []

    def redirect(request: WSUpgradeRequest) -> Any:
        location = net.url(tcp).replace("ws:", "http:")
        response = WSUpgradeResponse.create_redirect_response(302, location)
        return WSUpgradeResponseWithListener(response, None)

    def route(request: WSUpgradeRequest) -> Any:
        requests.append(request)
        return Recorder()

    tcp = await net.serve(route)
    server = await serve(net, path, redirect)
    transport, _ = await connect(net, path, extra_headers={"Cookie": "mine", "Host": "docker"})
    assert our_socket(transport).family == socket.AF_INET
    assert "Cookie" not in requests[0].headers
    assert requests[0].headers["Host"] == net.url(tcp).split("/")[2]
    await leave(transport)
    await server.shutdown()
    await tcp.shutdown()


# -- failures of the system ------------------------------------------------------------------------


async def test_nobody_is_there(net: Any, folder: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        await connect(net, path)
    with pytest.raises(FileNotFoundError):
        await connect(net, str(folder / "no" / "such"))
    # Left behind by a server that was killed.
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
    with pytest.raises(ConnectionRefusedError):
        await connect(net, path)
    (folder / "file").write_text("")
    with pytest.raises(ConnectionRefusedError):
        await connect(net, str(folder / "file"))


async def test_a_path_that_is_too_long(net: Any, folder: Path) -> None:
    path = str(folder / ("x" * 108))
    with pytest.raises(OSError):  # noqa: PT011
        await connect(net, path)
    with pytest.raises(OSError, match="too long"):
        await serve(net, path)
    assert not os.listdir(folder)


async def test_a_path_where_no_socket_can_be(net: Any, folder: Path) -> None:
    (folder / "file").write_text("mine")
    for path in (folder, folder / "file", folder / "no" / "such", folder / "file" / "below"):
        with pytest.raises(OSError):  # noqa: PT011
            await serve(net, str(path))
    # What is no socket is nobody's to remove.
    assert (folder / "file").read_text() == "mine"
    assert os.listdir(folder) == ["file"]


async def test_a_server_whose_queue_is_full(net: Any, folder: Path, path: str) -> None:
    """The system says so at once; and the loop keeps nothing of the socket that failed."""
    other = str(folder / "other.sock")
    async with await serve(net, other):
        with contextlib.ExitStack() as cleanup:
            listening = cleanup.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(path)
            listening.listen(0)
            for _ in range(3):
                waiting = cleanup.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect_ex(path)
            for _ in range(3):
                with pytest.raises(OSError):  # noqa: PT011
                    await connect(net, path, websocket_handshake_timeout=None)
                await check_echo(net, other)


async def test_a_silent_server(net: Any, path: str) -> None:
    def script(peer: RawPeer) -> None:
        peer.recv_head()
        assert peer.recv_all() == b""

    async with raw_unix_server(path, script):
        with pytest.raises(asyncio.TimeoutError):
            await connect(net, path, websocket_handshake_timeout=SHORT)


async def test_a_server_that_hangs_up(net: Any, path: str) -> None:
    async with raw_unix_server(path, lambda peer: peer.recv_head()):
        with pytest.raises(WSHandshakeError, match="without an answer"):
            await connect(net, path, websocket_handshake_timeout=None)


async def test_cancelled_after_each_iteration_of_the_loop(net: Any, path: str) -> None:
    server = await serve(net, path)
    for iterations in range(1000):
        task = asyncio.ensure_future(connect(net, path))
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
    assert iterations > 2
    transport, _ = task.result()
    await leave(transport)
    await server.shutdown()


# -- the server ------------------------------------------------------------------------------------


async def test_the_server_object(net: Any, path: str) -> None:
    server = await serve(net, path)
    assert server.is_serving()
    (sock,) = server.sockets
    assert sock.family == socket.AF_UNIX
    assert sock.getsockname() == path
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    server.close()
    assert not server.is_serving()
    assert server.sockets == ()
    assert not os.path.exists(path)
    server.close()
    await server.wait_closed()
    with pytest.raises(FileNotFoundError):
        await connect(net, path)


async def test_a_raw_client(net: Any, path: str) -> None:
    served = Recorder(echo)
    server = await serve(net, path, lambda request: served)
    with await in_thread(raw_unix_connect, path) as peer:
        first = encode_frame(TEXT, b"first", mask=b"1234")
        head = await in_thread(lambda: peer.request_upgrade(path=b"/x", then=first))
        assert head.startswith(b"HTTP/1.1 101 ")
        assert (await in_thread(peer.recv_frame)).payload == b"first"
    await served.until_gone()
    await server.shutdown()


@pytest.mark.parametrize("large", [False, True])
async def test_tls_on_a_unix_socket(net: Any, certificates: Any, path: str, large: bool) -> None:
    """For a proxy in front that insists on it; ws_connect has no URL for that."""
    size = 1_000_000 if large else 5
    served = Recorder(echo)
    server = await serve(net, path, lambda request: served, ssl=certificates.server)

    def talk() -> bytes:
        with raw_unix_connect(path, certificates.client) as peer:
            peer.request_upgrade(then=encode_frame(TEXT, b"x" * size, mask=b"\0\0\0\0"))
            payload = peer.recv_frame().payload
            peer.send(encode_frame(CLOSE, b"\x03\xe8", mask=b"\0\0\0\0"))
            assert peer.recv_frame().opcode == CLOSE
            assert peer.recv_all() == b""
            return payload

    assert await in_thread(talk) == b"x" * size
    await served.until_gone()
    assert served.transport.is_secure
    await server.shutdown()
    assert not os.path.exists(path)


async def test_tls_on_a_unix_socket_and_a_client_without(
    net: Any, certificates: Any, path: str
) -> None:
    server = await serve(net, path, ssl=certificates.server)
    with pytest.raises((WSHandshakeError, ConnectionError)):
        await connect(net, path)
    await some_iterations()
    await server.shutdown()
    net.loop_errors.clear()


async def test_the_deadline_of_a_client_that_says_nothing(net: Any, path: str) -> None:
    server = await serve(net, path, websocket_handshake_timeout=SHORT)
    with await in_thread(raw_unix_connect, path) as peer:
        assert await in_thread(peer.recv_all) == b""
    await server.shutdown()


async def test_start_serving_false(net: Any, path: str) -> None:
    server = await serve(net, path, start_serving=False)
    assert not server.is_serving()
    assert os.path.exists(path)
    with pytest.raises(ConnectionRefusedError):
        await connect(net, path)
    await server.start_serving()
    assert server.is_serving()
    await check_echo(net, path)
    await server.shutdown()
    assert not os.path.exists(path)


async def test_start_serving_false_and_never(net: Any, path: str) -> None:
    server = await serve(net, path, start_serving=False)
    server.close()
    await server.wait_closed()
    assert not os.path.exists(path)


async def test_shutdown(net: Any, path: str) -> None:
    served = Recorder()
    server = await serve(net, path, lambda request: served)
    transport, listener = await connect(net, path)
    listener.react = echo
    await server.shutdown(1012, timeout=None)
    await listener.until_gone()
    assert listener.events == ["connected", b"\x03\xf4", "disconnected"]
    assert served.events[-1] == "disconnected"
    assert transport.close_handshake.recv.code == 1012
    assert not os.path.exists(path)


@pytest.mark.parametrize("way", ["async with", "serve_forever", "shutdown"])
async def test_the_file_is_removed_at_the_end(net: Any, path: str, way: str) -> None:
    server = await serve(net, path)
    if way == "async with":
        async with server:
            assert os.path.exists(path)
    elif way == "serve_forever":
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await server.shutdown()
    assert not os.path.exists(path)


async def test_clients_live_on_without_the_file(net: Any, path: str) -> None:
    server = await serve(net, path)
    transport, listener = await connect(net, path)
    server.close()
    assert not os.path.exists(path)
    transport.send(WSMsgType.TEXT, b"alive?")
    await listener.until_frames(1)
    await leave(transport)
    await server.shutdown()


async def test_a_stale_file_is_replaced(net: Any, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen()
    server = await serve(net, path)
    await check_echo(net, path)
    await server.shutdown()
    assert not os.path.exists(path)


async def test_one_server_after_the_other(net: Any, path: str) -> None:
    for _ in range(3):
        server = await serve(net, path)
        await check_echo(net, path)
        await server.shutdown()


async def test_a_server_that_took_over_keeps_its_file(net: Any, path: str) -> None:
    """As in a restart without a gap: the new one starts, then the old one ends."""
    old = await serve(net, path)
    _, listener = await connect(net, path)
    new = await serve(net, path)
    await old.shutdown(timeout=SHORT)
    await listener.until_gone()
    assert os.path.exists(path)
    await check_echo(net, path)
    await new.shutdown()
    assert not os.path.exists(path)


@pytest.mark.parametrize("what", ["nothing", "a file", "a folder"])
async def test_a_file_that_somebody_took_away(net: Any, path: str, what: str) -> None:
    server = await serve(net, path)
    os.unlink(path)
    if what == "a file":
        Path(path).write_text("mine")
    elif what == "a folder":
        os.mkdir(path)
    server.close()
    await server.wait_closed()
    assert os.path.exists(path) == (what != "nothing")
    await server.shutdown()


@one
async def test_a_relative_path(net: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    server = await serve(net, "x.sock")
    await check_echo(net, str(folder / "x.sock"))
    await server.shutdown()
    assert not os.listdir(folder)


async def test_a_listening_socket_of_the_users(net: Any, path: str) -> None:
    """Inherited from systemd, say: its file is not ours to remove."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        server = await ws_create_server(
            lambda request: Recorder(echo), sock=sock, use_aiofastnet=net.use_aiofastnet
        )
        await check_echo(net, path)
        await server.shutdown()


# -- with others -----------------------------------------------------------------------------------

# Both print a line when they are done with it; see the tests.
WEBSOCKETS_CLIENT = """
import asyncio, sys
from websockets.asyncio.client import unix_connect

async def main():
    async with unix_connect(sys.argv[1], "ws://localhost/feed?x=1") as connection:
        for size in (0, 5, 100_000):
            await connection.send(b"x" * size)
            assert await connection.recv() == b"x" * size
        await connection.close(3456, "bye")
        print(connection.close_code, connection.close_reason)

asyncio.run(main())
"""
WEBSOCKETS_SERVER = """
import asyncio, contextlib, sys
from websockets.asyncio.server import unix_serve
from websockets.exceptions import ConnectionClosed

async def main():
    done = asyncio.get_running_loop().create_future()

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(await connection.recv())
        request = connection.request
        done.set_result((request.path, request.headers["Host"], connection.close_code))

    async with unix_serve(handler, sys.argv[1]):
        print("ready", flush=True)
        print(*await done)

asyncio.run(main())
"""


@pytest.fixture
def websockets() -> None:
    if not PEERS_PYTHON.exists():
        pytest.skip("the peers live in .venv-peers, which `make peers` makes")


def start_peer(script: str, path: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PEERS_PYTHON, "-c", script, path],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )


def read_line(peer: subprocess.Popen[str]) -> str:
    assert peer.stdout is not None
    return peer.stdout.readline()


@contextlib.contextmanager
def running(peer: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with peer:
        try:
            yield peer
        finally:
            peer.kill()


@pytest.mark.usefixtures("websockets")
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_a_client_of_websockets(net: Any, path: str) -> None:
    served = Recorder(echo)
    requests: list[WSUpgradeRequest] = []

    def route(request: WSUpgradeRequest) -> WSListener:
        requests.append(request)
        return served

    server = await serve(net, path, route)
    with running(start_peer(WEBSOCKETS_CLIENT, path)) as peer:
        assert await in_thread(read_line, peer) == "3456 bye\n"
    await served.until_gone()
    assert requests[0].path == b"/feed?x=1"
    await server.shutdown()


@pytest.mark.usefixtures("websockets")
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_a_server_of_websockets(net: Any, path: str) -> None:
    with running(start_peer(WEBSOCKETS_SERVER, path)) as peer:
        assert await in_thread(read_line, peer) == "ready\n"
        transport, listener = await connect(net, path, "/feed?x=1")
        for size in (0, 5, 100_000):
            transport.send(WSMsgType.BINARY, bytes(size))
        await listener.until_frames(3)
        assert [len(each) for each in listener.payloads] == [0, 5, 100_000]
        transport.send_close(3456, b"bye")
        await listener.until_frames(4)
        await leave(transport)
        assert await in_thread(read_line, peer) == "/feed?x=1 localhost 3456\n"
