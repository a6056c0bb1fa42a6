"""One side of HTTP/2 by hand, on a blocking socket: what a well-behaved library would not do is
done with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, ResponseReceived
from h2.settings import SettingCodes, Settings

from raw_peer import BINARY, encode_frame, raw_connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from h2.events import Event

    from raw_peer import RawPeer

WEBSOCKET = (":protocol", "websocket")
VERSION = ("sec-websocket-version", "13")
MASK = b"mask"
FRAME = 16_384  # bytes that a frame may have (RFC 9113 section 4.2)
WINDOW = 65_535  # what a window begins with (RFC 9113 section 6.9.2)


class Http2Peer:
    """`events` are those that nobody has asked for yet. Received DATA is acknowledged at once, but
    for that of the streams in `hoarding`.
    """

    def __init__(
        self,
        peer: RawPeer,
        client_side: bool = True,
        settings: dict[SettingCodes, int] | None = None,
        wide: bool = True,
    ) -> None:
        self.peer = peer
        self.h2 = H2Connection(H2Configuration(client_side=client_side, header_encoding="utf-8"))
        self.h2.local_settings = Settings(client=client_side, initial_values=settings or {})
        self.events: list[Event] = []
        self.hoarding: set[int] = set()
        self.h2.initiate_connection()
        if wide:
            # The connection's window: what is not read of one stream stops no other.
            self.h2.increment_flow_control_window(2**30)
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.peer.send(data)

    def read(self) -> None:
        data = self.peer.recv_some()
        if not data:
            raise EOFError
        for event in self.h2.receive_data(data):
            if isinstance(event, DataReceived) and event.stream_id not in self.hoarding:
                self.acknowledge(event)
            self.events.append(event)
        self.flush()

    def acknowledge(self, event: DataReceived) -> None:
        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def wait(self, *kinds: type[Any], stream: int | None = None) -> Any:
        """The first event of these kinds."""
        while True:
            for event in self.events:
                if isinstance(event, kinds) and stream in (None, getattr(event, "stream_id", 0)):
                    self.events.remove(event)
                    return event
            self.read()

    def until_eof(self) -> None:
        try:
            while True:
                self.read()
        except (EOFError, ConnectionResetError):
            pass

    # -- a client ----------------------------------------------------------------------------------

    def request(self, method: str, path: str, *more: tuple[str, str], end: bool = False) -> int:
        """`more` begins with further pseudo-header fields."""
        stream: int = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":authority", "localhost"), (":scheme", "http")]
        self.h2.send_headers(stream, [*pseudo, (":path", path), *more], end_stream=end)
        self.flush()
        return stream

    def answer(self, stream: int) -> dict[str, str]:
        return dict(self.wait(ResponseReceived, stream=stream).headers)

    def open(self, *headers: tuple[str, str]) -> int:
        """A WebSocket."""
        stream = self.request("CONNECT", "/", WEBSOCKET, VERSION, *headers)
        assert self.answer(stream)[":status"] == "200"
        return stream

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        """In frames of the usual size, as the window allows."""
        for at in range(0, len(data) or 1, FRAME):
            piece = data[at : at + FRAME]
            while self.h2.local_flow_control_window(stream) < len(piece):
                self.read()
            self.h2.send_data(stream, piece, end_stream=end and at + FRAME >= len(data))
            self.flush()

    def receive(self, stream: int, size: int) -> bytes:
        """As many bytes of DATA."""
        data = b""
        while len(data) < size:
            data += self.wait(DataReceived, stream=stream).data
        return data

    def last_data(self, stream: int) -> bytes:
        """The DATA of a frame that ends the stream as well."""
        event = self.wait(DataReceived, stream=stream)
        assert event.stream_ended is not None, event
        return bytes(event.data)

    def echoes(self, stream: int, payload: bytes = b"still there?") -> None:
        self.send(stream, encode_frame(BINARY, payload, mask=MASK))
        expected = encode_frame(BINARY, payload)
        assert self.receive(stream, len(expected)) == expected

    # -- a server ----------------------------------------------------------------------------------

    def accept(self, *headers: tuple[str, str], status: str = "200") -> int:
        stream: int = self.wait(RequestReceived).stream_id
        self.h2.send_headers(stream, [(":status", status), *headers])
        self.flush()
        return stream


def connect(port: int, context: SSLContext | None = None, **options: Any) -> Http2Peer:
    return Http2Peer(raw_connect(port, context), **options)


def serves(script: Callable[[Http2Peer], object]) -> Callable[[RawPeer], None]:
    """For a RawServer: a server that knows WebSockets."""

    def run(peer: RawPeer) -> None:
        script(Http2Peer(peer, False, {SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}))

    return run
