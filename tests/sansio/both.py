"""The two libraries side by side: picows.sansio, and wsproto, whose users change their imports and
nothing else. wsproto is run, never read.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

# An event as plain data: its class, its fields by name.
Told = tuple[str, dict[str, Any]]

# Of a received message, how its data came: all that a receiver may not rely on.
WORDS_OF_OURS = "(in words of its own)"


class Library:
    """One of the two, with everything by its name."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.root = import_module(package)
        self.connection = import_module(f"{package}.connection")
        self.events = import_module(f"{package}.events")
        self.extensions = import_module(f"{package}.extensions")
        self.frame_protocol = import_module(f"{package}.frame_protocol")
        self.handshake = import_module(f"{package}.handshake")
        self.utilities = import_module(f"{package}.utilities")

    def __repr__(self) -> str:
        return self.package

    @property
    def modules(self) -> list[ModuleType]:
        return [
            self.root,
            self.connection,
            self.events,
            self.extensions,
            self.frame_protocol,
            self.handshake,
            self.utilities,
        ]

    def side(self, name: str) -> Any:
        return self.connection.ConnectionType[name.upper()]

    def agreed(self, side: str, offer: str | None) -> list[Any]:
        """The extensions of a side that has agreed on permessage-deflate, or on nothing."""
        if offer is None:
            return []
        extension = self.extensions.PerMessageDeflate()
        if side == "server":
            assert extension.accept(offer) is not None
        else:
            extension.finalize(offer)
        return [extension]

    def open(self, side: str, offer: str | None = None, trailing_data: bytes = b"") -> Any:
        return self.connection.Connection(self.side(side), self.agreed(side, offer), trailing_data)

    def event(self, name: str, **fields: Any) -> Any:
        return getattr(self.events, name)(**fields)


OURS = Library("picows.sansio")
THEIRS = Library("wsproto")


def told(event: Any) -> Told:
    """An event of either library as plain data. bytes and bytearray are the same."""
    fields = {}
    for name in event.__match_args__:
        value = getattr(event, name)
        if name == "extensions":
            value = [each if isinstance(each, str) else repr(each) for each in value]
        if isinstance(value, bytearray):
            value = bytes(value)
        fields[name] = value
    kind = type(event).__name__
    if kind == "CloseConnection" and fields["code"] in (1002, 1007, 1009) and fields["reason"]:
        # Both say why the other side's frames are wrong, each in its own words. What a CLOSE of the
        # other side says is compared, where its code is another one.
        fields["reason"] = WORDS_OF_OURS
    return kind, fields


def drained(connection: Any) -> list[Told]:
    return [told(event) for event in connection.events()]


def whole(events: list[Told]) -> list[Told]:
    """The same, with the parts of each message put together, as far as they came in a row."""
    merged: list[Told] = []
    open_message: Told | None = None
    for kind, fields in events:
        if kind not in ("TextMessage", "BytesMessage"):
            merged.append((kind, fields))
            continue
        if open_message is None:
            open_message = (kind, dict(fields))
            merged.append(open_message)
        else:
            assert open_message[0] == kind
            open_message[1]["data"] += fields["data"]
            open_message[1]["message_finished"] = fields["message_finished"]
        open_message[1]["frame_finished"] = True
        if fields["message_finished"]:
            open_message = None
    return merged


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, which end at `places` (of which those beyond its end do not count)."""
    ends = sorted({place for place in places if 0 < place < len(data)})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
