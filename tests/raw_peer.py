"""A peer made by hand, on blocking sockets: it can do everything wrong that a test asks for.

It shares no code with picows, so that both cannot be wrong in the same way. A server's script runs
in a thread; a client's calls are made in the test's own thread, or from a coroutine with `await
in_thread(...)`. Every call ends within TIMEOUT seconds.

    def script(peer):
        peer.accept_upgrade()
        peer.send(encode_frame(TEXT, b"hello"))
        assert peer.recv_frame().opcode == CLOSE

    with RawServer(script) as server:
        transport, listener = await ws_connect(Listener, server.url())
        ...
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
TIMEOUT = 10 if not os.environ.get("PICOWS_SANITIZE") else 50

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class RawFrame(NamedTuple):
    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0  # RSV1 is 4, RSV2 is 2, RSV3 is 1
    masked: bool = False


def encode_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    length: int | None = None,
    length_bits: int | None = None,
) -> bytes:
    """One frame. `length` declares another length than the payload's; `length_bits` (7, 16, 64) its
    encoding.
    """
    length = len(payload) if length is None else length
    if length_bits is None:
        length_bits = 7 if length < 126 else 16 if length < 65536 else 64
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask_bit = 0x80 if mask is not None else 0
    if length_bits == 7:
        head = struct.pack("!BB", first, mask_bit | length)
    elif length_bits == 16:
        head = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    if mask is None:
        return head + payload
    return head + mask + apply_mask(payload, mask)


def encode_close(code: int, reason: bytes = b"", *, mask: bytes | None = None) -> bytes:
    return encode_frame(CLOSE, struct.pack("!H", code) + reason, mask=mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def accept_key(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


class RawPeer:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT)
        self.unread = b""

    # Bytes

    def send(self, *pieces: bytes) -> None:
        self.sock.sendall(b"".join(pieces))

    def recv_some(self, size: int = 65536) -> bytes:
        """What is there, at least one byte; b"" at end of stream."""
        if self.unread:
            data, self.unread = self.unread[:size], self.unread[size:]
            return data
        return self.sock.recv(size)

    def recv_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.recv_some(size - len(data))
            if not piece:
                raise EOFError(f"end of stream after {len(data)} of {size} bytes: {bytes(data)!r}")
            data += piece
        return bytes(data)

    def recv_until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            piece = self.recv_some()
            if not piece:
                raise EOFError(f"end of stream, no {mark!r} in {data!r}")
            data += piece
        end = data.index(mark) + len(mark)
        self.unread = data[end:] + self.unread
        return data[:end]

    def recv_all(self) -> bytes:
        """Everything up to the end of stream; a reset counts as one."""
        data = bytearray()
        try:
            while piece := self.recv_some():
                data += piece
        except (ConnectionResetError, ssl.SSLEOFError, BrokenPipeError):
            pass
        return bytes(data)

    # Frames

    def recv_frame(self) -> RawFrame:
        first, second = self.recv_exactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.recv_exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.recv_exactly(8))
        mask = self.recv_exactly(4) if second & 0x80 else None
        payload = self.recv_exactly(length)
        if mask is not None:
            payload = apply_mask(payload, mask)
        return RawFrame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7, mask is not None)

    def send_frame(self, opcode: int, payload: bytes = b"", **kwargs: Any) -> None:
        self.send(encode_frame(opcode, payload, **kwargs))

    # The upgrade

    def recv_head(self) -> bytes:
        return self.recv_until(b"\r\n\r\n")

    def accept_upgrade(self, *extra: bytes, then: bytes = b"") -> bytes:
        """Server side: answer 101, with more header lines and, in the same segment, first frames.
        Returns the request.
        """
        head = self.recv_head()
        key = field(head, b"Sec-WebSocket-Key")
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + accept_key(key or b""),
            *extra,
        ]
        self.send(b"\r\n".join(lines), b"\r\n\r\n", then)
        return head

    def request_upgrade(self, *extra: bytes, path: bytes = b"/", then: bytes = b"") -> bytes:
        """Client side: ask for the upgrade, with more header lines and first frames. Returns the
        response's head.
        """
        self.send(upgrade_request(*extra, path=path), then)
        return self.recv_head()

    # The end

    def end_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(self.sock, ssl.SSLSocket):
            socket.socket(fileno=self.sock.detach()).close()
        else:
            self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def upgrade_request(*extra: bytes, path: bytes = b"/", key: bytes | None = None) -> bytes:
    lines = [
        b"GET " + path + b" HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + (key or base64.b64encode(os.urandom(16))),
        b"Sec-WebSocket-Version: 13",
        *extra,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def field(head: bytes, name: bytes) -> bytes | None:
    """A header field's value; None where there is none."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name.lower():
            return value.strip()
    return None


def raw_connect(
    port: int,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
    receive_buffer: int | None = None,
) -> RawPeer:
    """
    A TCP or TLS connection to a server on 127.0.0.1; nothing has been sent on it. A small receive
    buffer, in bytes, lets the server's queue fill soon.
    """
    sock = socket.socket()
    if receive_buffer is not None:
        # Ahead of connecting, since it says how large TCP's window may be.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(timeout)
    try:
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if ssl_context is not None:
        sock = ssl_context.wrap_socket(sock, server_hostname="localhost")
    return RawPeer(sock)


class RawServer:
    """Listens on 127.0.0.1; runs `script(peer)` in a thread for each connection, one after the
    other.

    Leaving the `with` block waits for the script that runs and raises what a script raised.
    """

    def __init__(
        self, script: Callable[[RawPeer], object], ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self.script = script
        self.ssl_context = ssl_context
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.failure: BaseException | None = None
        # A client that breaks off the TLS handshake is no failure of the script.
        self.tls_failure: OSError | None = None
        self.last_caller: tuple[str, int] | None = None
        self.thread = threading.Thread(target=self._serve, name="raw server", daemon=True)

    def url(self, path: str = "/") -> str:
        return f"{'wss' if self.ssl_context else 'ws'}://127.0.0.1:{self.port}{path}"

    def _serve(self) -> None:
        while True:
            sock, address = self.listening.accept()
            if address == self.last_caller:
                sock.close()
                return
            try:
                sock.settimeout(TIMEOUT)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with sock:
                    if self.ssl_context is not None:
                        try:
                            sock = self.ssl_context.wrap_socket(sock, server_side=True)
                        except OSError as exc:
                            self.tls_failure = exc
                            continue
                    with RawPeer(sock) as peer:
                        self.script(peer)
            except BaseException as exc:
                self.failure = self.failure or exc

    def __enter__(self) -> RawServer:
        self.thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A last call wakes accept() up, behind all that wait in the queue; closing the socket would
        # not, on Linux.
        with socket.socket() as last:
            last.bind(("127.0.0.1", 0))
            self.last_caller = last.getsockname()
            last.connect(("127.0.0.1", self.port))
        self.thread.join(2 * TIMEOUT)
        self.listening.close()
        if self.thread.is_alive():
            raise TimeoutError("the raw server's script does not end")
        if self.failure is not None and exc is None:
            raise self.failure

    async def __aenter__(self) -> RawServer:
        return self.__enter__()

    async def __aexit__(self, *exc_info: Any) -> None:
        """As __exit__, while the loop goes on: the script may wait for what picows sends."""
        await in_thread(self.__exit__, *exc_info)


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a blocking function while the loop goes on."""
    return await asyncio.to_thread(function, *args, **kwargs)
