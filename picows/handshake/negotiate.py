"""What the two sides agree on: the key and its answer, subprotocols, extensions.

What always holds: nothing is accepted that was not offered. RFC 6455 section 4.1 asks that of the
client; the server keeps to it too, so that a mistake in its own code shows at home.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha1
from os import urandom

from .headers import TOKEN, list_members

__all__ = [
    "accept_key",
    "extension_names",
    "is_key",
    "new_key",
    "subprotocol_names",
]

# RFC 6455 section 1.3
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# RFC 6455 section 4.2.1: "a base64-encoded value that, when decoded, is 16 bytes in length"
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

# RFC 6455 section 9.1: one extension with its parameters, then a comma or the end. A quoted
# value may hold commas, which is why no split does the work.
_TOKEN = TOKEN.pattern
_EXTENSION = re.compile(
    rf"""[ \t]*({_TOKEN})
         (?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*(?:{_TOKEN}|"(?:[^"\\]|\\.)*"))?)*
         [ \t]*(?:,|\Z)""",
    re.VERBOSE,
)
_EMPTY_MEMBERS = re.compile(r"[ \t,]*")


def new_key() -> str:
    """A fresh ``Sec-WebSocket-Key`` from the operating system's random source."""
    return b64encode(urandom(16)).decode("ascii")


def is_key(value: str) -> bool:
    """Whether this may be the value of ``Sec-WebSocket-Key``."""
    return _KEY.fullmatch(value) is not None


def accept_key(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` that answers a key (RFC 6455 section 4.2.2, 5.4)."""
    digest = sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return b64encode(digest).decode("ascii")


def subprotocol_names(values: Iterable[str]) -> list[str]:
    """The subprotocols that a client is about to offer.

    RFC 6455 section 4.1: tokens, all different. Raises ``ValueError``.
    """
    names = list_members(values)
    for name in names:
        if not TOKEN.fullmatch(name):
            raise ValueError("Sec-WebSocket-Protocol must be a list of tokens")
    if len(set(names)) != len(names):
        raise ValueError("Sec-WebSocket-Protocol names a subprotocol twice")
    return names


def extension_names(values: Iterable[str]) -> list[str]:
    """The names in a ``Sec-WebSocket-Extensions`` list, in lower case.

    Raises ``ValueError`` when it is malformed.
    """
    names = []
    for value in values:
        at = 0
        while (at := _skip_empty_members(value, at)) < len(value):
            member = _EXTENSION.match(value, at)
            if member is None:
                raise ValueError("Sec-WebSocket-Extensions is malformed")
            names.append(member.group(1).lower())
            at = member.end()
    return names


def _skip_empty_members(value: str, at: int) -> int:
    skipped = _EMPTY_MEMBERS.match(value, at)
    assert skipped is not None  # it matches nothing as well
    return skipped.end()
