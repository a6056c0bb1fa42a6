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
    "Parameters",
    "accept_key",
    "extension_names",
    "extensions",
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
_VALUE = rf"""(?:{_TOKEN}|"(?:[^"\\]|\\.)*")"""
_EXTENSION = re.compile(
    rf"""[ \t]*({_TOKEN})
         ((?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*{_VALUE})?)*)
         [ \t]*(?:,|\Z)""",
    re.VERBOSE,
)
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*({_VALUE}))?")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
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


# Of one extension, in order: names in lower case, values without quotes, None where there is none.
Parameters = list[tuple[str, str | None]]


def extensions(values: Iterable[str]) -> list[tuple[str, Parameters]]:
    """The members of a ``Sec-WebSocket-Extensions`` list: names in lower case, with parameters.

    Raises ``ValueError`` when it is malformed.
    """
    found = []
    for value in values:
        at = 0
        while (at := _skip_empty_members(value, at)) < len(value):
            member = _EXTENSION.match(value, at)
            if member is None:
                raise ValueError("Sec-WebSocket-Extensions is malformed")
            parameters: Parameters = [
                (parameter[1].lower(), _unquoted(parameter[2]))
                for parameter in _PARAMETER.finditer(member[2])
            ]
            found.append((member[1].lower(), parameters))
            at = member.end()
    return found


def extension_names(values: Iterable[str]) -> list[str]:
    """The names in a ``Sec-WebSocket-Extensions`` list. Raises as ``extensions`` does."""
    return [name for name, _ in extensions(values)]


def _unquoted(value: str | None) -> str | None:
    """RFC 9110 section 5.6.4"""
    if value is None or not value.startswith('"'):
        return value
    return _QUOTED_PAIR.sub(r"\1", value[1:-1])


def _skip_empty_members(value: str, at: int) -> int:
    skipped = _EMPTY_MEMBERS.match(value, at)
    assert skipped is not None  # it matches nothing as well
    return skipped.end()
