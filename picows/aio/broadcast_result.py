"""What `broadcast` says."""

from __future__ import annotations

from typing import NamedTuple

from picows.aio.transport import WSTransport

__all__ = ["BroadcastResult"]


class BroadcastResult(NamedTuple):
    """What became of a broadcast.

    ``sent``: on how many connections the message is on its way. ``closed``: the transports that
    send nothing any more, those that were lost in the attempt among them. ``overflowed``: those
    over their ``max_write_buffer``; with the policy "close" they are disconnected now. ``busy``:
    those that are in the middle of a fragmented message, which nothing may interrupt (RFC 6455
    section 5.4). Where a transport stands in one of the lists, nothing of the message was sent.
    """

    sent: int
    closed: list[WSTransport]
    overflowed: list[WSTransport]
    busy: list[WSTransport]
