"""An echo client on a blocking socket: no event loop, no thread.

    python examples/echo_blocking_client.py ws://127.0.0.1:9001/ --count 5

It sends a message, waits for its echo, and goes on. picows.sansio turns events into bytes and back;
sendall() and recv() of the standard library do the rest, with a timeout for each. They bound
what is in memory, too: recv() is called once what it brought last is worked off, and sendall()
returns when the kernel has all of it.

Behind the last echo it says goodbye with a CLOSE of code 1000, and it ends with 0. Ctrl-C and
SIGTERM make it do so early. Whatever goes wrong is said on stderr, and it ends with 1. For a server
whose certificate no public authority signed: --ca FILE.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import NoReturn
from urllib.parse import urlsplit

from picows.sansio import CLIENT, ConnectionState, WSConnection
from picows.sansio.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.utilities import LocalProtocolError, RemoteProtocolError

READ_SIZE = 64 * 1024  # bytes
MAX_MESSAGE_SIZE = 1024 * 1024  # bytes, inflated
MAX_BODY_SIZE = 1024  # bytes that are kept of what a refusal says


class ConversationError(Exception):
    """The server's part of it is not what it should be."""


class BlockingWebSocket:
    """A client's side of a connection, for one thread.

    Leaving `with` says goodbye: with code 1000, or with 1008 behind a ConversationError. Behind
    other exceptions there is nobody left, or half a frame under way.
    """

    def __init__(self, url: str, timeout: float, ca: Path | None = None) -> None:
        self.timeout = timeout
        self.close_code: int | None = None
        self._ws = WSConnection(CLIENT, max_message_size=MAX_MESSAGE_SIZE, assemble_messages=True)
        self._events: Iterator[Event] = iter(())
        # Is a frame on its way into the socket? Interrupted there, nothing could follow it.
        self._sending = False
        self._interrupted = False
        # Of the opening and of the closing handshake, however many reads each of them takes.
        self._deadline: float | None = monotonic() + timeout
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            port = parts.port or {"ws": 80, "wss": 443}[parts.scheme]
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            request = self._ws.send(
                Request(parts.netloc.rpartition("@")[2], target, [PerMessageDeflate()])
            )
        except (ValueError, KeyError, LocalProtocolError):
            host = ""
        if not host:
            raise ConversationError(f"{url!r} is no URL of a WebSocket")
        self._sock = socket.create_connection((host, port), timeout)
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if parts.scheme == "wss":
                context = ssl.create_default_context(cafile=ca)
                self._sock = context.wrap_socket(self._sock, server_hostname=host)
            self._sock.sendall(request)
            answer = self._next_event()
            if isinstance(answer, RejectConnection):
                self._refused(answer)
            assert isinstance(answer, AcceptConnection)
        except BaseException:
            self._sock.close()
            raise
        self._deadline = None
        self._sock.settimeout(timeout)

    def _refused(self, answer: RejectConnection) -> NoReturn:
        body = b""
        while not isinstance(event := self._next_event(), RejectData) or not event.body_finished:
            if isinstance(event, RejectData) and len(body) < MAX_BODY_SIZE:
                body += event.data
        said = body[:MAX_BODY_SIZE].decode(errors="replace").strip()
        raise ConversationError(f"the server refuses with {answer.status_code}: {said}")

    def send(self, data: str | bytes) -> None:
        """Returns when the kernel has it."""
        self._send(TextMessage(data) if isinstance(data, str) else BytesMessage(data))

    def receive(self) -> str | bytes | bytearray | None:
        """The next message; None when there will be no more, and `close_code` says why."""
        while self._ws.state is ConnectionState.OPEN:
            event = self._next_event()
            if isinstance(event, TextMessage | BytesMessage):
                return event.data
            if isinstance(event, Ping):
                self._send(event.response())
            elif isinstance(event, CloseConnection):
                self._closed(event)
        return None

    def __enter__(self) -> BlockingWebSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._sock:
            if kind is None:
                self._say_goodbye(1000)
            elif kind is ConversationError:
                # What goes wrong now would hide what went wrong first.
                with contextlib.suppress(OSError):
                    self._say_goodbye(1008)

    def _say_goodbye(self, code: int) -> None:
        self._deadline = monotonic() + self.timeout
        if self._ws.state is ConnectionState.OPEN:
            self._send(CloseConnection(code))
        while self._ws.state is not ConnectionState.CLOSED:
            event = self._next_event()  # messages that are still on their way, and the answer
            if isinstance(event, CloseConnection):
                self._closed(event)
        # The server closes first (RFC 6455 section 7.1.1).
        with contextlib.suppress(OSError):
            while self._receive_some():
                pass

    def _closed(self, event: CloseConnection) -> None:
        if self.close_code is None:
            self.close_code = event.code
        if self._ws.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            # The server goes first; or has sent what it must not, and this is what to tell it.
            self._send(event.response())

    def _send(self, event: Event) -> None:
        self._sending = True
        self._sock.sendall(self._ws.send(event))
        self._sending = False
        if self._interrupted:
            self.interrupt()

    def interrupt(self, *_: object) -> None:
        """A signal's handler: KeyboardInterrupt, at once or behind the frame that is being sent."""
        self._interrupted = self._sending
        if not self._interrupted:
            raise KeyboardInterrupt

    def _next_event(self) -> Event:
        while True:
            for event in self._events:
                return event
            self._ws.receive_data(self._receive_some() or None)
            self._events = self._ws.events()

    def _receive_some(self) -> bytes:
        if self._deadline is not None:
            left = self._deadline - monotonic()
            if left <= 0:
                raise TimeoutError(f"the server took more than {self.timeout} seconds")
            self._sock.settimeout(left)
        return self._sock.recv(READ_SIZE)


def converse(args: argparse.Namespace) -> str:
    echoes = 0
    with BlockingWebSocket(args.url, args.timeout, args.ca) as websocket:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, websocket.interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(args.count):
                text = f"{args.message} {number}"
                websocket.send(text)
                answer = websocket.receive()
                if answer is None:
                    code = websocket.close_code
                    raise ConversationError(f"closed with {code}, behind {echoes} echoes")
                if answer != text:
                    raise ConversationError(f"no echo of {text[:50]!r}: {answer[:50]!r}")
                echoes += 1
    if websocket.close_code == 1006:
        raise ConversationError(f"the connection was lost, behind {echoes} echoes")
    return f"{echoes} echoes, closed by the server with {websocket.close_code}"


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client on a blocking socket")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--message", default="Hello, world")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds")
    parser.add_argument("--ca", type=Path, help="PEM file: the authority to trust")
    args = parser.parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)  # raises KeyboardInterrupt
    try:
        print(converse(args))
    except RemoteProtocolError as exc:
        # Its hint is for servers: a client cannot refuse but by going away.
        sys.exit(f"no WebSocket there: {exc}")
    except ConversationError as exc:
        sys.exit(str(exc))
    except OSError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
    except KeyboardInterrupt:
        sys.exit("interrupted")  # ahead of the conversation, or inside of the goodbye


if __name__ == "__main__":
    main()
