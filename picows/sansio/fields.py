"""The fields of a message's head, as events have them: pairs of bytes.

What always holds: what goes out was checked, whoever gave it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from picows.handshake.headers import check_field

from .typing import Headers

if TYPE_CHECKING:
    from multidict import CIMultiDict

__all__ = ["as_text", "encode_head", "frame_body", "received_fields", "text_fields"]

# RFC 9110 sections 15.3.5 and 15.4.5: answers without a body, and without its length.
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})

_LENGTH = re.compile(r"[0-9]{1,18}")


def text_fields(headers: object) -> list[tuple[str, str]]:
    """
    Pairs of text of what a program gives: pairs of bytes, or of str, or a mapping. Raises TypeError
    for anything else.
    """
    pairs: object = headers.items() if isinstance(headers, Mapping) else headers
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        raise TypeError(f"headers must be a list of (name, value) pairs, not {headers!r}")
    fields = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError("headers must hold (name, value) pairs of bytes or str")
        name, value = pair
        fields.append((as_text(name), as_text(value).strip(" \t")))
    return fields


def as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        # What is not ASCII is refused where the message is written.
        return value.decode("latin-1")
    raise TypeError(f"headers must hold bytes or str, not {type(value).__name__}")


def encode_head(start_line: str, fields: list[tuple[str, str]]) -> bytes:
    """A message's head. Raises ValueError for a field that cannot be sent."""
    for name, value in fields:
        check_field(name, value)
    lines = [start_line, *(f"{name}: {value}" for name, value in fields), "\r\n"]
    return "\r\n".join(lines).encode("ascii")


def frame_body(
    status: HTTPStatus | int, fields: list[tuple[str, str]], has_body: bool
) -> tuple[list[tuple[str, str]], int | None]:
    """
    The fields of a refusal with those that say where its body ends (RFC 9112 section 6.3), and the
    body's length, None where it goes in chunks. Raises ValueError where they contradict each other.
    """
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    codings = [value.lower() for name, value in fields if name.lower() == "transfer-encoding"]
    if len(lengths) > 1 or any(not _LENGTH.fullmatch(value) for value in lengths):
        raise ValueError("Content-Length is repeated or no number")
    if codings and (lengths or codings != ["chunked"]):
        raise ValueError("a body goes in chunks, or has a Content-Length, and nothing else")
    length = int(lengths[0]) if lengths else None
    framed = [(name, value) for name, value in fields if name.lower() != "connection"]
    if has_body:
        if status in _BODILESS:
            raise ValueError(f"a {int(status)} has no body")
        if not lengths and not codings:
            framed.append(("Transfer-Encoding", "chunked"))
    elif length or codings:
        raise ValueError("the fields announce a body, and has_body does not")
    else:
        if not lengths and status not in _BODILESS:
            framed.append(("Content-Length", "0"))
        length = 0
    # RFC 9110 section 7.8: whoever sends Upgrade names it in Connection.
    upgrades = any(name.lower() == "upgrade" for name, _ in fields)
    framed.append(("Connection", "Upgrade, close" if upgrades else "close"))
    return framed, length


def received_fields(headers: CIMultiDict[str], without: frozenset[str] = frozenset()) -> Headers:
    return [
        (name.lower().encode("ascii"), value.encode("ascii"))
        for name, value in headers.items()
        if name.lower() not in without
    ]
