"""A connection of ours without a network: bytes are put in by hand, what it sends is a bytearray.

    connection = Detached("server", listener, assemble_messages=True)
    connection.feed(frame_to("server", TEXT, b"hello"))
    assert connection.sent() == []

Everything happens inside the call, so a test can look at what each single byte does, ten thousand
times a second. What depends on sockets, loops or TLS is tested over real ones. It needs the
standard library and picows alone: the fuzz targets run on it.
"""

from __future__ import annotations

import logging
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from picows import PerMessageDeflate, WSFrame, WSListener, WSTransport
from picows.aio.connection import Connection
from picows.aio.parameters import make_settings
from picows.aio.settings import Settings
from picows.handshake.deflate import DeflateAgreement

# A peer that agreed to nothing special.
FULL = DeflateAgreement(False, False, 15, 15)

SILENT = logging.Logger("detached", logging.CRITICAL)


class Timer:
    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """As much of an event loop as a connection asks for. Timers never expire by themselves."""

    def __init__(self) -> None:
        self.ready: deque[Timer] = deque()
        self.timers: list[Timer] = []

    def is_closed(self) -> bool:
        return False

    def call_soon(self, function: Callable[..., object], *args: Any) -> Timer:
        self.ready.append(Timer(function, args))
        return self.ready[-1]

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Timer:
        self.timers.append(Timer(function, args))
        return self.timers[-1]

    def run(self) -> None:
        """What was to be called soon."""
        while self.ready:
            each = self.ready.popleft()
            if not each.is_cancelled:
                each.function(*each.args)

    def expire(self) -> None:
        """All timers that are set now."""
        timers, self.timers = self.timers, []
        for each in timers:
            if not each.is_cancelled:
                each.function(*each.args)


class Below:
    """The transport: takes everything, at once."""

    def __init__(self, connection: Detached, sock: socket.socket | None) -> None:
        self.connection = connection
        self.socket = sock
        self.written = bytearray()
        self.waiting = 0
        self.is_reading = True
        self.is_closing = False

    def get_extra_info(self, name: str) -> Any:
        return self.socket if name == "socket" else None

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, pieces: Iterable[Any]) -> None:
        for piece in pieces:
            self.write(piece)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        if not self.is_closing:
            self.is_closing = True
            self.connection.loop.call_soon(self.connection.lose)

    abort = close


class Delivered(NamedTuple):
    opcode: int
    fin: bool
    payload: bytes


class Sent(NamedTuple):
    opcode: int
    fin: bool
    rsv1: bool
    payload: bytes


class Collecting(WSListener):
    """Notes what is delivered. `react(transport, frame)` runs inside the callback."""

    def __init__(self, react: Callable[[WSTransport, WSFrame], object] | None = None) -> None:
        self.react = react
        self.delivered: list[Delivered] = []
        self.connected = self.disconnected = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.connected += 1

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        assert (self.connected, self.disconnected) == (1, 0)
        # RSV1 is the codec's own, and nobody sets the others.
        assert (frame.rsv1, frame.rsv2, frame.rsv3) == (False, False, False)
        self.delivered.append(
            Delivered(int(frame.msg_type), frame.fin, frame.get_payload_as_bytes())
        )
        if self.react is not None:
            self.react(transport, frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.disconnected += 1


def settings_of(side: str, **options: Any) -> Settings:
    """Those of a connection on `side` where nobody asks for anything else."""
    everything: dict[str, Any] = {
        "logger_name": SILENT,
        "disconnect_on_exception": True,
        "enable_auto_ping": False,
        "auto_ping_idle_timeout": 10,
        "auto_ping_reply_timeout": 10,
        "auto_ping_strategy": 1,
        "enable_auto_pong": True,
        "coalesce_writes": False,
        "use_aiofastnet": None,
        "max_frame_size": 10 * 1024 * 1024,
        "read_buffer_init_size": 16 * 1024,
        "assemble_messages": False,
        "max_message_size": 64 * 1024 * 1024,
        "max_fragments": 65536,
        "permessage_deflate": False,
        "max_write_buffer": None,
        "overflow_policy": "close",
        **options,
    }
    return make_settings(is_client_side=side == "client", **everything)


class Detached:
    """
    A connection of ours on `side`; `agreement` is what the opening handshake agreed on. To
    `below_socket` it writes directly, as to a real one.
    """

    def __init__(
        self,
        side: str,
        listener: WSListener | None = None,
        agreement: DeflateAgreement | None = None,
        *,
        loop: Loop | None = None,
        below_socket: socket.socket | None = None,
        **options: Any,
    ) -> None:
        self.listener = Collecting() if listener is None else listener
        self.loop = Loop() if loop is None else loop
        if agreement is not None:
            options.setdefault("permessage_deflate", PerMessageDeflate(threshold=0))
        settings = settings_of(side, **options)
        self.side = side
        self.below = Below(self, below_socket)
        # The loop is no AbstractEventLoop, the upgrade is over.
        anything: Any = None
        self.connection = Connection(self.loop, settings, _Upgrade(), None)  # type: ignore[arg-type]
        self.connection.connection_made(self.below)
        self.connection.open(self.listener, anything, anything, b"", agreement)

    @property
    def transport(self) -> WSTransport:
        return self.connection

    def feed(self, data: bytes) -> None:
        """One read, or as many as the buffers ask for."""
        at = 0
        while at < len(data) and not self.below.is_closing:
            buffer = self.connection.get_buffer(-1)
            size = min(len(buffer), len(data) - at)
            buffer[:size] = data[at : at + size]
            at += size
            self.connection.buffer_updated(size)
        self.loop.run()

    def feed_pieces(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.feed(piece)

    def sent(self) -> list[Sent]:
        """The frames that were sent, unmasked."""
        return list(parse_frames(bytes(self.below.written)))

    @property
    def close_code(self) -> int | None:
        """Of the CLOSE that was sent; None if none was."""
        closes = [frame.payload for frame in self.sent() if frame.opcode == 8]
        assert len(closes) < 2
        return int.from_bytes(closes[0][:2], "big") if closes else None

    def lose(self) -> None:
        """The end of the connection, if it was not over."""
        self.connection.connection_lost(None)

    def __enter__(self) -> Detached:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.below.close()
        self.loop.run()


class _Upgrade:
    def connection_made(self, connection: object) -> None:
        pass

    def connection_lost(self, exc: object) -> None:
        pass


def parse_frames(stream: bytes) -> Iterator[Sent]:
    """The frames of a stream that is complete; masked ones are unmasked."""
    at = 0
    while at < len(stream):
        first, second = stream[at : at + 2]
        at += 2
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack_from("!H", stream, at)
            at += 2
        elif size == 127:
            (size,) = struct.unpack_from("!Q", stream, at)
            at += 8
        key = stream[at : at + 4] if second & 0x80 else b""
        at += len(key)
        payload = stream[at : at + size]
        assert len(payload) == size
        at += size
        if key:
            payload = unmask(payload, key)
        yield Sent(first & 15, first >= 128, bool(first & 0x40), payload)


def unmask(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return number.to_bytes(size, "big")


def pieces_of(stream: bytes, choose: random.Random) -> Iterator[bytes]:
    """The stream, cut: not at all, at every byte, or anywhere; a long one in fewer pieces."""
    size = len(stream)
    most = choose.choice([max(size, 1), 1 + size // 3000, 8 + size // 1000, 3000 + size // 100])
    start = 0
    while start < len(stream):
        end = start + choose.randint(1, most)
        yield stream[start:end]
        start = end
