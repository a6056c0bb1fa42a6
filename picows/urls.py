"""WebSocket URLs: ``ws://`` and ``wss://``, taken apart once and checked whole.

What always holds for a ``WSParsedURL`` made by ``parse_url``: host, port and request target can
be written into a request head as they are (printable ASCII, no space, nothing that ends a line),
and ``redacted``, ``repr`` and every error message are free of the password.

The rules are those of RFC 6455 section 3 and RFC 3986. ``urllib.parse.urlsplit`` is not used: it
drops tabs and line feeds silently, so that what was checked is not what was written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, unquote_to_bytes

from picows.errors import WSInvalidURL

__all__ = ["WSParsedURL", "parse_url", "redacted_target"]

_DEFAULT_PORTS = {"ws": 80, "wss": 443}

_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# A name of up to 253 characters in labels of 1 to 63 (RFC 1034 section 3.1); the underscore is
# not for host names, yet container and service names have it. Longer or empty labels would
# end in a UnicodeError of the resolver's "idna" codec, which is no error of the system.
_HOST_NAME = re.compile(r"(?=.{1,254}\Z)[a-z0-9_~-]{1,63}(?:\.[a-z0-9_~-]{1,63})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9._~-]+")
_PORT = re.compile(r"[0-9]{1,5}")

# ASCII that a request target may hold as it stands: unreserved, reserved and "%" of RFC 3986,
# without "#". What is left, that is "<>\^`{|} and all beyond ASCII, is percent-encoded.
_TARGET_SAFE = "!$%&'()*+,-./:;=?@[]_~"

# In a URL that could not be parsed: all from the first colon behind the scheme to the last "@",
# since a password that nobody percent-encoded may hold any of "/?#@".
_PASSWORD = re.compile(r"\A((?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?//)?[^:]*:).*@", re.DOTALL)

# Query parameters in which venues and gateways expect a credential: listenKey, access_token, ...
_SECRET_PARAMETER = re.compile(
    r"([?&][^=&]*(?:auth|key|token|secret|pass|sign)[^=&]*=)[^&]*", re.IGNORECASE
)


@dataclass(frozen=True)
class WSParsedURL:
    """A WebSocket URL in its parts. Since 0.1.

    url
        as it was given, password included
    scheme
        "ws" or "wss"
    host
        what is handed to the resolver: a name in lower-case ASCII (international names in their
        IDNA form), an IPv4 address, or an IPv6 address without brackets and with its zone, as in
        "fe80::1%eth0"
    port
        1 to 65535, the scheme's default where the URL names none
    path
        the request target: path and query
    username, password
        percent-decoded, or None
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str
    username: str | None = None
    password: str | None = None

    @property
    def is_secure(self) -> bool:
        """Whether the connection runs over TLS (``wss``)."""
        return self.scheme == "wss"

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` field: no userinfo, no zone, no default port."""
        # RFC 6874 section 4: a zone means something on this machine alone.
        host = self.host.partition("%")[0]
        if ":" in host:
            host = f"[{host}]"
        return host if self.port == _DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def redacted(self) -> str:
        """The URL for logs and messages: ``***`` for the password and what looks like one."""
        userinfo = ""
        if self.username is not None:
            secret = "" if self.password is None else ":***"
            userinfo = f"{quote(self.username, safe='')}{secret}@"
        return f"{self.scheme}://{userinfo}{self.host_header}{redacted_target(self.path)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.redacted!r})"


def parse_url(url: str) -> WSParsedURL:
    """Take a ``ws://`` or ``wss://`` URL apart.

    Raises ``WSInvalidURL`` (a ``WSError``) that names the URL, without its password, and the rule
    that it breaks, and ``TypeError`` for anything but a ``str``.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    if _CONTROL_OR_SPACE.search(url):
        raise _invalid(url, "it holds a space or a control character")
    if not url.isascii():
        try:
            url.encode("utf-8")
        except UnicodeEncodeError:
            raise _invalid(url, "it holds a lone surrogate") from None

    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise _invalid(url, "it must begin with ws:// or wss://")
    # RFC 6455 section 3: "Fragment identifiers are meaningless in the context of WebSocket URIs
    # and MUST NOT be used on these URIs."
    if "#" in rest:
        raise _invalid(url, 'a WebSocket URL has no fragment; "#" in a path is written %23')

    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    userinfo, _, host_and_port = authority.rpartition("@")
    username, password = _parse_userinfo(url, userinfo) if userinfo else (None, None)
    host, port = _parse_host_and_port(url, host_and_port)
    if not target.startswith("/"):
        target = "/" + target
    return WSParsedURL(
        url=url,
        scheme=scheme,
        host=host,
        port=_DEFAULT_PORTS[scheme] if port is None else port,
        path=quote(target, safe=_TARGET_SAFE),
        username=username,
        password=password,
    )


def redacted_target(target: str) -> str:
    """A request target for logs, with ``***`` for what is by its name a credential."""
    return _SECRET_PARAMETER.sub(r"\1***", target)


def _parse_userinfo(url: str, userinfo: str) -> tuple[str, str | None]:
    username, colon, password = userinfo.partition(":")
    try:
        username = unquote_to_bytes(username).decode("utf-8")
        password = unquote_to_bytes(password).decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid(url, "user or password is not percent-encoded UTF-8") from None
    # RFC 7617 section 2: neither holds control characters, and the first colon ends the name.
    if _CONTROL.search(username) or _CONTROL.search(password):
        raise _invalid(url, "user or password holds a control character")
    if ":" in username:
        raise _invalid(url, "a user name with a colon cannot be sent as Basic Authorization")
    return username, password if colon else None


def _parse_host_and_port(url: str, authority: str) -> tuple[str, int | None]:
    if authority.startswith("["):
        literal, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _invalid(url, "the brackets of the IPv6 address do not match")
        host = _parse_ipv6(url, literal)
        port = rest[1:]
    else:
        name, _, port = authority.partition(":")
        if ":" in port:
            raise _invalid(url, "an IPv6 address stands in brackets; a port is digits")
        host = _parse_name(url, name)
    if not port:  # RFC 3986 section 3.2.3: an empty port is the default one
        return host, None
    # A fixed number of ASCII digits: int() would take "+80", "8_0" and other scripts' digits.
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise _invalid(url, "the port must be a number from 1 to 65535")
    return host, int(port)


def _parse_ipv6(url: str, literal: str) -> str:
    address, percent, zone = literal.partition("%")
    if percent:
        # RFC 6874 section 2 writes "%25eth0"; people paste "%eth0" as their tools print it.
        if zone.startswith("25"):
            zone = zone[2:]
        if not _ZONE.fullmatch(zone):
            raise _invalid(url, "the zone of the IPv6 address is empty or malformed")
    try:
        IPv6Address(address)
    except AddressValueError:
        raise _invalid(url, "the address in brackets is no IPv6 address") from None
    return address.lower() + (f"%{zone}" if percent else "")


def _parse_name(url: str, name: str) -> str:
    if not name:
        raise _invalid(url, "it has no host")
    if not name.isascii():
        try:
            # Python's own codec, as socket.getaddrinfo and ssl use it: Host, look-up and
            # certificate must speak of the same name. It takes quadratic time in older
            # Pythons (CVE-2022-45061), so the length comes first.
            name = name.encode("idna").decode("ascii") if len(name) <= 253 else ""
        except UnicodeError:
            name = ""
    name = name.lower()
    # Checked behind the codec too: its normalisation makes "/" and "@" of look-alikes.
    if not _HOST_NAME.fullmatch(name):
        raise _invalid(url, "the host is no valid name or IPv4 address")
    return name


def _invalid(url: str, rule: str) -> WSInvalidURL:
    shown = redacted_target(_PASSWORD.sub(r"\1***@", url, count=1))
    return WSInvalidURL(url, f"invalid WebSocket URL {shown!r}: {rule}")
