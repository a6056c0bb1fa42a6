"""Header fields: what may be sent, what may be shown, what a list of tokens says.

What always holds: a field that leaves through ``encode_fields`` has a token for a name and
printable ASCII for a value, so nothing that a caller hands in can begin a new line, a new field or
a new message; and no error message made here repeats a value, since it may be a credential.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from multidict import CIMultiDict

__all__ = [
    "OWNED_BY_HANDSHAKE",
    "TOKEN",
    "ExtraHeaders",
    "check_field",
    "encode_fields",
    "has_token",
    "list_members",
    "normalise_extra_headers",
    "redacted_fields",
]

ExtraHeaders = Mapping[str, str] | Iterable[tuple[str, str]]

# Fields that the handshake sets itself, in both directions.
OWNED_BY_HANDSHAKE = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-key",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)

# RFC 9110 section 5.6.2
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# Names whose values a debug log must not show; besides the standard ones, what trading venues
# call their API keys, signatures and passphrases.
_SECRET = re.compile(r"auth|cookie|key|token|secret|pass|sign", re.IGNORECASE)
_HANDSHAKE_PREFIX = "sec-websocket-"


def check_field(name: str, value: str) -> None:
    """Refuse a name that is no token and a value that is no printable ASCII (``ValueError``)."""
    if not TOKEN.fullmatch(name):
        # Whoever writes "Authorization: Bearer ..." as a name finds no secret in the message.
        shown = TOKEN.match(name)
        begins = f" (it begins with {shown.group()[:64]!r})" if shown else ""
        raise ValueError(f"a header's name must be an RFC 9110 token{begins}")
    if not _is_value(value):
        raise ValueError(
            f"the value of header {name!r} holds CR, LF, NUL, another control character or"
            " something beyond ASCII"
        )


def _is_value(text: str) -> bool:
    """RFC 9110 section 5.5: visible ASCII, space and tab.

    obs-text is left out on purpose: nobody agrees on what those bytes mean, and strictness towards
    the peer begins with oneself.
    """
    return text.isascii() and (text.isprintable() or text.replace("\t", " ").isprintable())


def normalise_extra_headers(
    extra_headers: ExtraHeaders | None, owned: frozenset[str] = frozenset()
) -> list[tuple[str, str]]:
    """The fields of a user's ``extra_headers``, in order and checked.

    ``owned`` are the names, in lower case, that belong to the handshake. Raises ``TypeError`` for
    what is no mapping and no iterable of pairs of ``str``, ``ValueError`` for what cannot be sent.
    """
    if extra_headers is None:
        return []
    # Not every caller has a type checker, so nothing is taken for granted here.
    given: object = extra_headers
    pairs: object = given.items() if isinstance(given, Mapping) else given
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        raise TypeError(
            "extra_headers must be a mapping or an iterable of (name, value) pairs of str,"
            f" not {type(extra_headers).__name__}"
        )
    fields: list[tuple[str, str]] = []
    for pair in pairs:
        # A str of two characters would unpack as well.
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError("extra_headers must hold (name, value) pairs of str")
        name, value = pair
        if not isinstance(name, str):
            raise TypeError(f"extra_headers: a name must be str, not {type(name).__name__}")
        if not isinstance(value, str):
            raise TypeError(
                f"extra_headers: the value of {name!r} must be str, not {type(value).__name__}"
            )
        try:
            check_field(name, value)
        except ValueError as exc:
            raise ValueError(f"extra_headers: {exc}") from None
        if name.lower() in owned:
            raise ValueError(f"extra_headers: {name!r} is set by the handshake itself")
        # White space around a value is not part of it (RFC 9110 section 5.5).
        fields.append((name, value.strip(" \t")))
    return fields


def encode_fields(start_line: str, headers: CIMultiDict[str]) -> bytes:
    """A whole message head. Raises ``ValueError`` for a field that cannot be sent.

    The headers are a user's to change until the last moment, so this is where each is checked.
    """
    if not _are_fields(headers):
        for name, value in headers.items():
            if not isinstance(value, str):
                raise TypeError(
                    f"the value of header {name!r} must be str, not {type(value).__name__}"
                )
            check_field(name, value)
    lines = [start_line, *[f"{name}: {value}" for name, value in headers.items()], "\r\n"]
    return "\r\n".join(lines).encode("ascii")


def _are_fields(headers: CIMultiDict[str]) -> bool:
    """Would each pass `check_field`? Asked of all at once, which takes a quarter of the time."""
    try:
        values = "".join(headers.values())
    except TypeError:
        return False
    return _is_value(values) and all(headers) and bool(TOKEN.fullmatch("".join(headers)))


def redacted_fields(headers: CIMultiDict[str]) -> list[tuple[str, str]]:
    """The fields with the values of credentials, cookies and the like starred out."""
    return [(name, "***" if _is_secret(name) else value) for name, value in headers.items()]


def _is_secret(name: str) -> bool:
    # Sec-WebSocket-Key is a nonce, and the one thing to look at when Accept does not match.
    return bool(_SECRET.search(name)) and not name.lower().startswith(_HANDSHAKE_PREFIX)


def list_members(values: Iterable[str]) -> list[str]:
    """The members of a comma-separated list that may span several fields.

    RFC 9110 section 5.6.1: a recipient ignores empty members. No member of the lists that are read
    with this can hold a quoted comma.
    """
    return [
        member for value in values for part in value.split(",") if (member := part.strip(" \t"))
    ]


def has_token(values: Iterable[str], token: str) -> bool:
    """Whether a list has this member, whatever its case; ``token`` is given in lower case."""
    for value in values:
        for member in value.lower().split(","):
            if member.strip(" \t") == token:
                return True
    return False
