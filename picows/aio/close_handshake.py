"""What a connection remembers of its closing handshake (RFC 6455 section 7.1.2)."""

from __future__ import annotations

from typing import NamedTuple

from picows.wire.frame import WSCloseCode

__all__ = ["CloseFrame", "CloseHandshake"]


class CloseFrame(NamedTuple):
    """One CLOSE frame. Without a code, `code` is `WSCloseCode.NO_INFO` and `reason` None."""

    code: WSCloseCode | int
    reason: str | None


class CloseHandshake(NamedTuple):
    """The CLOSE frames so far; `recv_then_sent` is None until there are both."""

    recv: CloseFrame | None
    sent: CloseFrame | None
    recv_then_sent: bool | None
