"""Extensions, agreed on (RFC 6455 section 9.1), for whoever makes the opening handshake.

What always holds: an extension is enabled afterwards if, and only if, it was agreed on here; as far
as it can be said of extensions of users.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from picows.errors import WSError
from picows.handshake.deflate import PerMessageDeflate
from picows.handshake.extension import Extension
from picows.handshake.negotiate import extensions as parse_extensions

from .events import RejectConnection
from .utilities import RemoteProtocolError

__all__ = [
    "client_extensions_handshake",
    "members",
    "negotiate",
    "server_extensions_handshake",
]

# One member of a well-formed Sec-WebSocket-Extensions; quoted values may hold commas.
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


def server_extensions_handshake(
    requested: Iterable[str], supported: Sequence[Extension]
) -> bytes | None:
    """
    A server's answer to what a client offers: the value of ``Sec-WebSocket-Extensions``, None where
    nothing was agreed on.

    :param requested: the offers: the field's members, or its values as they came
    :param supported: those that may be agreed on. The ones that are, are enabled afterwards. Of
        several offers of one extension the first that it accepts counts (RFC 7692 section 5)
    """
    _, answer = negotiate(requested, supported)
    return None if answer is None else answer.encode("ascii")


def negotiate(
    requested: Iterable[str], supported: Sequence[Extension]
) -> tuple[list[Extension], str | None]:
    """What was agreed on, in the client's order, and the answer that says it."""
    agreed: list[Extension] = []
    answers: list[str] = []
    _forget(supported)
    for offer in members(requested):
        name = _name_in(offer)
        for extension in supported:
            if extension.name.lower() != name or extension in agreed:
                continue
            answer = extension.accept(offer)
            if answer is None or answer is False:
                continue
            agreed.append(extension)
            text = extension.name if answer is True else f"{extension.name}; {answer}"
            answers.append(text.rstrip("; "))
            break
    return agreed, ", ".join(answers) if agreed else None


def _forget(extensions: Sequence[Extension]) -> None:
    """One instance may have served another connection, and that may have agreed on more."""
    for extension in extensions:
        if not isinstance(extension, Extension):
            raise TypeError(f"extensions must hold Extension objects, not {extension!r}")
        if isinstance(extension, PerMessageDeflate):
            extension.reset()


def client_extensions_handshake(
    accepted: Iterable[str], supported: Sequence[Extension]
) -> list[Extension]:
    """
    What a client makes of a server's answer: those that were agreed on, in the server's order.

    :param accepted: the members of ``Sec-WebSocket-Extensions``, or its values as they came
    :param supported: those that were offered

    Raises `RemoteProtocolError` for an extension that was not offered, or is named twice, or whose
    parameters do not answer the offer.
    """
    agreed: list[Extension] = []
    values = list(accepted)
    _forget(supported)
    try:
        parse_extensions(values)
    except ValueError as exc:
        raise RemoteProtocolError(str(exc), RejectConnection()) from None
    for answer in members(values):
        name = _name_in(answer)
        for extension in supported:
            if extension.name.lower() == name and extension not in agreed:
                try:
                    extension.finalize(answer)
                except WSError as exc:
                    raise RemoteProtocolError(str(exc), RejectConnection()) from None
                agreed.append(extension)
                break
        else:
            raise RemoteProtocolError(f"unrecognized extension {name}", RejectConnection())
    return agreed


def members(values: Iterable[str]) -> list[str]:
    """The members of a list, as text; none of a malformed one."""
    values = list(values)
    try:
        parse_extensions(values)
    except ValueError:
        return []
    return [
        text
        for value in values
        for member in _MEMBER.findall(value)
        if (text := member.strip(" \t"))
    ]


def _name_in(offer: str) -> str:
    return offer.partition(";")[0].strip(" \t").lower()
