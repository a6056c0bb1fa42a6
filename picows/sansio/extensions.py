"""Extensions of the protocol: permessage-deflate, and what others are made of."""

from __future__ import annotations

from picows.handshake.deflate import PerMessageDeflate
from picows.handshake.extension import Extension

__all__ = ["SUPPORTED_EXTENSIONS", "Extension", "PerMessageDeflate"]

# By the name that stands in the opening handshake.
SUPPORTED_EXTENSIONS: dict[str, type[Extension]] = {PerMessageDeflate.name: PerMessageDeflate}
