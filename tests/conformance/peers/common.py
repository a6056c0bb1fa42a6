"""What every peer does, whatever library it is made of: it answers and it asks, over a Channel.

A peer is a process of its own (see `Peer` in ../conftest.py), started as
`python -m conformance.peers.<name>_peer --cert ... --ca ...` with tests/ as its working directory.
It speaks JSON lines:

    out  {"ready": {"plain": port, "tls": port}}      its two servers, once
    in   {"id": 1, "url": "...", "steps": [...]}      connect and do what run_steps() documents
    in   {"id": 2, "serve": true, "deflate": {...}}   one more server, on plain TCP
    out  {"id": 1, "results": [...]}                  or {"id": 1, "error": "traceback"}
    out  {"closed": "/path", "code": 1000, "reason": ""}   a client of its servers is gone

and ends at the end of its input. "deflate" holds the parameters of RFC 7692 section 7.1 that it
offers or accepts, each True, False or a number, also where it connects; the result of "serve" is a
port. This file needs the standard library alone. The tests drive our
side through the same Channel, so both ends of a connection are told the same things.
"""

from __future__ import annotations

import abc
import argparse
import asyncio
import hashlib
import json
import ssl
import sys
import traceback
from typing import TYPE_CHECKING, Any

from aio.deflate_peer import far

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Parameters of permessage-deflate by their names; None for a library's own way with compression.
Deflate = dict[str, Any] | None

MAX_SIZE = 64 << 20  # bytes; what all sides accept in a message
NO_LIBRARY_KNOWS = 1006  # a close code that never travels: the connection was lost
# Characters of one to four bytes in UTF-8, so ten bytes in all.
ALPHABET = "a\u00e9\u20ac\U0001f600".encode()
# Where a message of at least 18 bytes is cut: inside the four-byte character, an empty fragment,
# and inside a two-byte character.
CUTS = (0, 8, 8, 12)


def payload(kind: str, size: int) -> bytes:
    """`size` bytes that are no repetition of a few bytes; for "text", valid UTF-8."""
    if kind == "binary":
        block = hashlib.sha512(b"picows").digest() + bytes(range(256))
        return (block * (size // len(block) + 1))[:size]
    text = ALPHABET * (size // len(ALPHABET))
    return text + b"z" * (size - len(text))


def fragments(kind: str, size: int) -> list[bytes]:
    whole = payload(kind, size)
    return [whole[a:b] for a, b in zip(CUTS, (*CUTS[1:], size), strict=True)]


def digest(kind: str, data: bytes) -> list[Any]:
    """What is reported of a message."""
    return [kind, len(data), hashlib.sha256(data).hexdigest()]


class Channel(abc.ABC):
    """A connection, client or server side, by whatever library."""

    @abc.abstractmethod
    async def send(self, kind: str, data: bytes) -> None:
        """Send one message, `kind` being "text" or "binary"."""

    @abc.abstractmethod
    async def send_fragments(self, kind: str, parts: Sequence[bytes]) -> None:
        """Send one message in several frames."""

    @abc.abstractmethod
    async def receive(self) -> tuple[str, bytes] | None:
        """The next message, or None when the connection is closed."""

    @abc.abstractmethod
    async def ping(self, data: bytes) -> None:
        """Send a PING; return when a PONG with the same data has come."""

    @abc.abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Send a CLOSE (code 0: an empty one), return when the connection is closed."""

    @abc.abstractmethod
    def closed_with(self) -> tuple[int, str | None]:
        """The code and the reason that came from the other side; 1005 when there was no code,
        None when the library does not tell the reason."""


async def answer(
    channel: Channel, note: Callable[[str, bytes], None] | None = None
) -> tuple[int, str | None]:
    """A server's part: echo every message, but obey those that start with "!". `note` sees all."""
    while (message := await channel.receive()) is not None:
        kind, data = message
        if note is not None:
            note(kind, data)
        if kind == "binary" or data[:1] != b"!":
            await channel.send(kind, data)
            continue
        order, _, argument = data.decode()[1:].partition(" ")
        if order == "close":
            code, _, reason = argument.partition(" ")
            await channel.close(int(code), reason)
        elif order == "ping":
            await channel.ping(argument.encode())
            await channel.send("text", b"ponged " + argument.encode())
        elif order == "fragments":
            wanted, _, size = argument.partition(" ")
            await channel.send_fragments(wanted, fragments(wanted, int(size)))
        else:
            raise ValueError(f"unknown order {order!r}")
    return channel.closed_with()


async def run_steps(channel: Channel, steps: Sequence[Sequence[Any]]) -> list[Any]:
    """A client's part: each step gives one result.

    ["send", kind, text]       a message                           -> null
    ["payload", kind, size]    payload(kind, size)                 -> null
    ["far", size, seed]        far(size, seed), binary             -> null
    ["fragments", kind, size]  the same in fragments(kind, size)   -> null
    ["receive"]                the next message                    -> digest() or null
    ["ping", text]             a PING and its PONG                 -> null
    ["close", code, reason]    the closing handshake, started here -> [code, reason] that came
    """
    results: list[Any] = []
    for name, *arguments in steps:
        result: Any = None
        if name == "send":
            kind, text = arguments
            await channel.send(kind, text.encode())
        elif name == "payload":
            kind, size = arguments
            await channel.send(kind, payload(kind, size))
        elif name == "far":
            await channel.send("binary", far(*arguments))
        elif name == "fragments":
            kind, size = arguments
            await channel.send_fragments(kind, fragments(kind, size))
        elif name == "receive":
            message = await channel.receive()
            result = digest(*message) if message else list(channel.closed_with())
        elif name == "ping":
            await channel.ping(arguments[0].encode())
        elif name == "close":
            await channel.close(*arguments)
            result = list(channel.closed_with())
        else:
            raise ValueError(f"unknown step {name!r}")
        results.append(result)
    return results


class Library(abc.ABC):
    """A WebSocket library: how to serve and how to connect with it."""

    @abc.abstractmethod
    async def serve(self, context: ssl.SSLContext | None, deflate: Deflate = None) -> int:
        """Serve on 127.0.0.1 until the process ends; returns the port.

        Each connection goes to self.answered()."""

    @abc.abstractmethod
    async def connect(
        self, url: str, context: ssl.SSLContext | None, deflate: Deflate = None
    ) -> Channel:
        """Connect as a client."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """Stop serving and connecting."""

    async def answered(self, channel: Channel, path: str) -> None:
        """Answer one client to its end and report the end."""
        try:
            code, reason = await answer(channel)
            say({"closed": path, "code": code, "reason": reason})
        except Exception:
            say({"closed": path, "error": traceback.format_exc()})


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def work(library: Library, cert: str, ca: str) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(cert)
    client_context = ssl.create_default_context(cafile=ca)
    plain = await library.serve(None)
    say({"ready": {"plain": plain, "tls": await library.serve(server_context)}})

    async def converse(task: dict[str, Any]) -> None:
        deflate = task.get("deflate")
        try:
            if "serve" in task:
                say({"id": task["id"], "results": await library.serve(None, deflate)})
                return
            context = client_context if task["url"].startswith("wss:") else None
            channel = await library.connect(task["url"], context, deflate)
            say({"id": task["id"], "results": await run_steps(channel, task["steps"])})
        except Exception:
            say({"id": task["id"], "error": traceback.format_exc()})

    # One conversation that hangs must not keep the next test waiting.
    conversations: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        conversation = loop.create_task(converse(json.loads(line)))
        conversations.add(conversation)
        conversation.add_done_callback(conversations.discard)
    await library.stop()


def main(library: Library) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cert", required=True)
    parser.add_argument("--ca", required=True)
    args = parser.parse_args()
    asyncio.run(work(library, args.cert, args.ca))
