"""Messages in fragments: an echo client that sends them so, and puts together what comes back.

    python examples/echo_client_fragmented_msg.py ws://127.0.0.1:9001/ --fragment-size 5

picows delivers frames. A message is one frame with fin=True, or a first one with its type and
fin=False, then CONTINUATION frames, of which the last has fin=True (RFC 6455 section 5.4). Control
frames are never fragmented and may come in between: here a PING goes out before each fragment.

What a peer may make us gather is limited: a message over --limit bytes ends the connection with
1009. max_frame_size alone would not do it, as it bounds one frame.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from importlib import import_module
from importlib.util import find_spec

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    ws_connect,
)

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


def send_in_fragments(
    transport: WSTransport, msg_type: WSMsgType, message: bytes, size: int
) -> None:
    """The message in frames of at most `size` bytes. No other message may go out in between."""
    view = memoryview(message)
    for start in range(0, max(len(view), 1), size):
        transport.send_ping(b"before byte %d" % start)
        transport.send(
            msg_type if start == 0 else WSMsgType.CONTINUATION,
            view[start : start + size],
            fin=start + size >= len(view),
        )


class MessageListener(WSListener):
    """Calls on_message with whole messages of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.msg_type: WSMsgType | None = None  # of the message that has begun
        self.parts = bytearray()
        self.fragments = 0
        self.pongs_between = 0

    def on_message(self, transport: WSTransport, msg_type: WSMsgType, message: bytes) -> None:
        raise NotImplementedError

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PONG:
            self.pongs_between += self.msg_type is not None
        elif frame.msg_type != WSMsgType.PING:
            self.on_fragment(transport, frame)

    def on_fragment(self, transport: WSTransport, frame: WSFrame) -> None:
        if (frame.msg_type == WSMsgType.CONTINUATION) == (self.msg_type is None):
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "a fragment out of order")
        if len(self.parts) + frame.payload_size > self.limit:
            raise WSProtocolError(
                WSCloseCode.MESSAGE_TOO_BIG, f"a message of more than {self.limit} bytes"
            )
        if self.msg_type is None:
            self.msg_type = frame.msg_type
        self.fragments += 1
        self.parts += frame.get_payload_as_memoryview()
        if frame.fin:
            msg_type, message = self.msg_type, bytes(self.parts)
            self.msg_type = None
            self.parts.clear()
            self.on_message(transport, msg_type, message)
            self.fragments = self.pongs_between = 0


class EchoClient(MessageListener):
    def on_message(self, transport: WSTransport, msg_type: WSMsgType, message: bytes) -> None:
        try:
            # Not fragment by fragment: a character may be cut in two.
            text = message.decode()
        except UnicodeDecodeError:
            raise WSProtocolError(WSCloseCode.INVALID_TEXT, "text that is not UTF-8") from None
        print(f"{text!r} in {self.fragments} fragments, {self.pongs_between} PONGs in between")
        transport.send_close(WSCloseCode.OK, b"done")


async def run(args: argparse.Namespace) -> int:
    transport, _ = await ws_connect(lambda: EchoClient(args.limit), args.url)
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, transport.disconnect)
    try:
        send_in_fragments(
            transport, WSMsgType.TEXT, args.message.encode(), max(args.fragment_size, 1)
        )
        print("sent", flush=True)
        await transport.wait_disconnected()
    except WSProtocolError as exc:
        print(f"closed with {exc.code}: {exc}")
        return 1
    finally:
        transport.disconnect()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="WebSocket echo client, message in fragments")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--message", default="Hello, fragmented world")
    parser.add_argument("--fragment-size", type=int, default=5, help="bytes, at most")
    parser.add_argument("--limit", type=int, default=1 << 20, help="bytes of a message, at most")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    try:
        code: int = import_module(args.loop).run(run(args))
    except KeyboardInterrupt:
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
