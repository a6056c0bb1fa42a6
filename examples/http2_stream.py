"""A WebSocket on a stream of HTTP/2 (RFC 8441), with `h2` and `picows.sansio`: what
echo_http2_server.py and echo_http2_client.py share. It needs `pip install h2`.

    Http2Connection   a socket: reads for all streams, and lets them write by turns
    Http2Stream       the bytes of one stream
    WebSocketStream   the messages on one stream

What always holds, so that memory stays flat, whatever the peer does:

* What was received is acknowledged, and gives the peer its window back, once the messages in it
  were worked off: when more is asked for. Until then, the peer may send one window, and no more.
* What is sent waits for the peer's window and for room in the socket, and `send` with it. So who
  answers what it receives, in one task, stops receiving while the peer does not read.
* The window of the connection is as large as those of all its streams. With less, a few streams
  that nobody reads would stop all the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from picows.sansio import Connection, ConnectionState, ConnectionType
from picows.sansio.events import BytesMessage, CloseConnection, Ping, TextMessage
from picows.sansio.events import Event as WebSocketEvent
from picows.sansio.extensions import Extension

MAX_STREAMS = 100  # that the peer may have open at a time
WINDOW = 64 * 1024  # bytes that a peer may send on a stream before they were worked off
MAX_MESSAGE = 1024 * 1024  # bytes
MAX_UNSENT = 1024 * 1024  # bytes of answers to one who asks (PING, SETTINGS) and does not read
PATIENCE = 2  # seconds that the end of a connection may take

Headers = Sequence[tuple[str, str]]


class Http2Connection:
    """HTTP/2 on one socket. Each request that comes gets a task, which runs `handler`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Callable[[Http2Stream], Awaitable[None]] | None = None,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.handler = handler
        self.streams: dict[int, Http2Stream] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.settled = asyncio.Event()  # the peer's settings have come, or never will
        self.turn = asyncio.Lock()
        self.ended: str | None = None  # why
        self.patience: asyncio.TimerHandle | None = None
        writer.transport.set_write_buffer_limits(WINDOW)  # asyncio's TLS would take 512 KiB

        is_client = handler is None
        self.h2 = H2Connection(H2Configuration(client_side=is_client))
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
        }
        if is_client:
            settings[SettingCodes.ENABLE_PUSH] = 0
        else:
            settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1  # RFC 8441 section 3
        self.h2.local_settings = Settings(client=is_client, initial_values=settings)
        self.h2.initiate_connection()
        # The window of the connection is no setting, and begins with one byte less.
        self.h2.increment_flow_control_window(MAX_STREAMS * WINDOW - 65_535)
        self.flush()

    async def run(self) -> None:
        """Read until the connection has ended. Then its streams and tasks have, too."""
        reason = "the connection has ended"
        try:
            # Also while the socket takes nothing: two who both do nothing but write would wait for
            # each other.
            while data := await self.reader.read(WINDOW):
                for event in self.h2.receive_data(data):
                    self.handle(event)
                self.flush()
        except (ProtocolError, OSError) as exc:
            reason += f": {exc!r}"
            self.flush()  # h2 has a GOAWAY for one who breaks its rules
        finally:
            self.end(reason)
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()
            if self.patience is not None:
                self.patience.cancel()
            await asyncio.gather(*self.tasks)

    def close(self) -> None:
        """Tell the peer that nothing will follow; `run` ends."""
        if self.ended is None:
            self.h2.close_connection()
            self.flush()
            self.end("the connection was closed")

    def end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
            self.settled.set()
            for stream in self.streams.values():
                stream.lose(reason)
            self.writer.close()
            # A peer that reads nothing more would keep it open.
            loop = asyncio.get_running_loop()
            self.patience = loop.call_later(PATIENCE, self.writer.transport.abort)

    def handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            stream = self.new_stream(event.stream_id)
            stream.changed(event)
            task = asyncio.ensure_future(self.respond(stream))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif isinstance(event, RemoteSettingsChanged):
            self.settled.set()
            for stream in self.streams.values():
                stream.writable.set()  # the windows may have changed
        elif isinstance(event, WindowUpdated):
            for stream in self.streams.values():
                if event.stream_id in (0, stream.id):
                    stream.writable.set()
        elif isinstance(event, ConnectionTerminated):
            # RFC 9113 section 6.8 lets streams go on behind a GOAWAY, h2 does not.
            raise ConnectionResetError(f"GOAWAY, {event.error_code!r}")
        elif isinstance(event, DataReceived):
            if event.stream_id in self.streams:
                self.streams[event.stream_id].data_received(event)
            else:
                self.acknowledge(event.stream_id, event.flow_controlled_length)
        elif (
            isinstance(event, (ResponseReceived, StreamEnded, StreamReset))
            and event.stream_id in self.streams
        ):
            self.streams[event.stream_id].changed(event)

    def new_stream(self, stream_id: int) -> Http2Stream:
        self.streams[stream_id] = stream = Http2Stream(self, stream_id)
        return stream

    async def request(self, headers: Headers) -> Http2Stream:
        """Open a stream. Raises ConnectionResetError when the connection has ended."""
        async with self.turn:
            await self.writer.drain()
            if self.ended is not None:
                raise ConnectionResetError(self.ended)
            stream = self.new_stream(self.h2.get_next_available_stream_id())
            self.h2.send_headers(stream.id, headers)
            self.flush()
            return stream

    async def respond(self, stream: Http2Stream) -> None:
        assert self.handler is not None
        try:
            await self.handler(stream)
        except ConnectionError:
            pass  # the stream was reset, or all of it has ended: nobody waits for an answer
        except Exception:
            logging.exception("stream %d", stream.id)
            stream.reset(ErrorCodes.INTERNAL_ERROR)
        finally:
            stream.forget()

    def flush(self) -> None:
        transport = self.writer.transport
        data = self.h2.data_to_send()
        if data and not transport.is_closing():
            self.writer.write(data)
            if transport.get_write_buffer_size() > MAX_UNSENT:
                transport.abort()

    def acknowledge(self, stream_id: int, size: int) -> None:
        """`size` bytes were worked off."""
        if size and self.ended is None:
            self.h2.acknowledge_received_data(size, stream_id)
            self.flush()


class Http2Stream:
    """One request and its answer. Whatever waits here raises ConnectionResetError once the stream
    is reset, or the connection has ended.
    """

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.headers: list[tuple[str, str]] = []  # of the request, or of the answer
        self.received = bytearray()
        self.in_work = 0  # bytes that receive() has handed out
        self.ended = False  # by the peer
        self.lost: str | None = None
        self.readable = asyncio.Event()
        self.writable = asyncio.Event()

    def values(self, name: str) -> list[str]:
        """Of a field, which may be there several times."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str:
        return ", ".join(self.values(name))

    # -- what has come -----------------------------------------------------------------------------

    def data_received(self, event: DataReceived) -> None:
        self.received += event.data
        # Padding takes a part of the window, and no work.
        self.connection.acknowledge(self.id, event.flow_controlled_length - len(event.data))
        self.readable.set()

    def changed(
        self, event: RequestReceived | ResponseReceived | StreamEnded | StreamReset
    ) -> None:
        if isinstance(event, StreamReset):
            self.lose(f"stream {self.id} was reset, {event.error_code!r}")
        elif isinstance(event, StreamEnded):
            self.ended = True
        else:
            # No rule says what the bytes of a field mean; every byte is a character of latin-1.
            self.headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers
            ]
        self.readable.set()

    def lose(self, reason: str) -> None:
        self.lost = reason
        self.readable.set()
        self.writable.set()

    def forget(self) -> None:
        """Nobody reads it any more. What still comes is dropped, and takes no window."""
        self.connection.streams.pop(self.id, None)
        self.connection.acknowledge(self.id, self.in_work + len(self.received))
        self.in_work = 0
        self.received.clear()

    # -- what its user calls -----------------------------------------------------------------------

    async def receive(self) -> bytes:
        """
        What has come, b"" at the peer's END_STREAM. To call it says that what was handed out before
        is worked off.
        """
        self.connection.acknowledge(self.id, self.in_work)
        self.in_work = 0
        await self.until(lambda: bool(self.received) or self.ended)
        data = bytes(self.received)
        self.received.clear()
        self.in_work = len(data)
        return data

    async def answered(self) -> str:
        """The status of the answer."""
        await self.until(lambda: bool(self.headers))
        return self.value(":status")

    async def until(self, condition: Callable[[], bool]) -> None:
        while not self.check_lost() and not condition():
            self.readable.clear()
            await self.readable.wait()

    def check_lost(self) -> bool:
        if self.lost is not None:
            raise ConnectionResetError(self.lost)
        return False

    async def answer(self, headers: Headers, end: bool = False) -> None:
        async with self.connection.turn:
            await self.connection.writer.drain()
            self.check_lost()
            self.connection.h2.send_headers(self.id, headers, end_stream=end)
            self.connection.flush()

    async def send(self, data: bytes, end: bool = False) -> None:
        """Send it all, and END_STREAM behind it where `end` says so."""
        h2 = self.connection.h2
        rest = memoryview(data)
        while True:
            async with self.connection.turn:  # a frame for each stream that wants to send
                await self.connection.writer.drain()
                self.check_lost()
                window = h2.local_flow_control_window(self.id)
                size = min(len(rest), window, h2.max_outbound_frame_size)
                if size > 0 or not rest:
                    is_last = size == len(rest)
                    h2.send_data(self.id, rest[:size], end_stream=end and is_last)
                    self.connection.flush()
                    if is_last:
                        return
                    rest = rest[size:]
                    continue
                self.writable.clear()
            await self.writable.wait()

    def reset(self, error_code: ErrorCodes) -> None:
        if self.lost is None:
            with contextlib.suppress(StreamClosedError):  # both sides had ended it
                self.connection.h2.reset_stream(self.id, error_code)
            self.connection.flush()
            self.lose("reset by this side")


class WebSocketStream:
    """`async for message in websocket`: whole messages, one at a time. A PING is answered here, and
    so is a CLOSE: the iteration ends, and `closed` says with what.
    """

    def __init__(
        self, stream: Http2Stream, side: ConnectionType, extensions: Sequence[Extension]
    ) -> None:
        self.stream = stream
        self.connection = Connection(
            side, extensions, max_message_size=MAX_MESSAGE, assemble_messages=True
        )
        self.closed: CloseConnection | None = None
        self.sending = asyncio.Lock()

    async def send(self, event: WebSocketEvent) -> None:
        """What comes behind a CLOSE is not sent."""
        # A frame may take several windows, and no other may come in between.
        async with self.sending:
            if self.connection.state is ConnectionState.OPEN:
                await self.stream.send(self.connection.send(event))

    def __aiter__(self) -> WebSocketStream:
        return self

    async def __anext__(self) -> TextMessage | BytesMessage:
        while self.closed is None:
            event = next(self.connection.events(), None)
            if event is None:
                # b"" is the end: without a CLOSE, it is told as one of code 1006.
                self.connection.receive_data(await self.stream.receive() or None)
            elif isinstance(event, (TextMessage, BytesMessage)):
                return event
            elif isinstance(event, Ping):
                await self.send(event.response())
            elif isinstance(event, CloseConnection):
                await self.finish(event)
        raise StopAsyncIteration

    async def finish(self, event: CloseConnection) -> None:
        """The peer's CLOSE, an answer to ours, or what is wrong with what it sent."""
        self.closed = event
        async with self.sending:
            last = b""
            if self.connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                last = self.connection.send(event.response())
            # Without END_STREAM, Chromium's onclose waits two seconds.
            await self.stream.send(last, end=True)
