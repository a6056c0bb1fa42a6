"""WebSocket URLs (``ws://``, ``wss://``, ``ws+unix://``), where redirects lead, and the URLs of
proxies, taken apart once and checked whole.

What always holds for a ``WSParsedURL`` made here: host, port and request target can be written into
a request head as they are (printable ASCII, no space, nothing that ends a line), and ``redacted``,
``repr`` and every error message are free of the password.

The rules are those of RFC 6455 section 3 and RFC 3986. ``urllib.parse.urlsplit`` is not used: it
drops tabs and line feeds silently, so that what was checked is not what was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, unquote_to_bytes

from picows.errors import WSInvalidURL

__all__ = ["WSParsedURL", "parse_proxy_url", "parse_url", "redacted_target", "resolve_redirect"]

_DEFAULT_PORTS = {
    "ws": 80,
    "wss": 443,
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks5": 1080,
}
_PROXY_SCHEMES = ("http", "https", "socks4", "socks5")

# A server that redirects speaks of HTTP; the WebSocket is the same resource.
_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}

# What refuses a URL: called with the rule that it breaks.
Fail = Callable[[str], WSInvalidURL]

# RFC 3986 section 3.1
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")

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
_SAFE_TARGET = re.compile(rf"[A-Za-z0-9{re.escape(_TARGET_SAFE)}]*")

# In a URL that could not be parsed: all from the first colon behind the scheme to the last "@",
# since a password that nobody percent-encoded may hold any of "/?#@".
_PASSWORD = re.compile(r"\A((?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?//)?[^:]*:).*@", re.DOTALL)

# Query parameters in which venues and gateways expect a credential: listenKey, access_token, ...
_SECRET_PARAMETER = re.compile(
    r"([?&][^=&]*(?:auth|key|token|secret|pass|sign)[^=&]*=)[^&]*", re.IGNORECASE
)


@dataclass(frozen=True, init=False)
class WSParsedURL:
    """A WebSocket URL, or a proxy's, in its parts. Since 0.1.

    url
        as it was given, password included
    scheme
        "ws", "wss" or "ws+unix"; a proxy's is "http", "https", "socks4" or "socks5"
    host
        what is handed to the resolver: a name in lower-case ASCII (international names in their
        IDNA form), an IPv4 address, or an IPv6 address without brackets and with its zone, as in
        "fe80::1%eth0"; "localhost" for a Unix socket
    port
        1 to 65535, the scheme's default where the URL names none
    path
        the request target: path and query
    username, password
        percent-decoded, or None
    unix_path
        the Unix socket in the file system, or None
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str
    username: str | None = None
    password: str | None = None
    unix_path: str | None = None

    def __init__(
        self,
        url: str,
        scheme: str,
        host: str,
        port: int,
        path: str,
        username: str | None = None,
        password: str | None = None,
        unix_path: str | None = None,
    ) -> None:
        # A frozen dataclass's own way, a call for each field, takes five times as long.
        fields = {
            "url": url,
            "scheme": scheme,
            "host": host,
            "port": port,
            "path": path,
            "username": username,
            "password": password,
            "unix_path": unix_path,
        }
        object.__setattr__(self, "__dict__", fields)

    @property
    def is_secure(self) -> bool:
        """Whether the connection runs over TLS (``wss``; ``https`` for a proxy)."""
        return self.scheme in ("wss", "https")

    @property
    def origin(self) -> tuple[str, str, int, str | None]:
        """What has to be the same for credentials to be sent again (RFC 6454 section 4)."""
        return self.scheme, self.host, self.port, self.unix_path

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` field: no userinfo, no zone, no default port."""
        # RFC 6874 section 4: a zone means something on this machine alone.
        host = self.host.partition("%")[0]
        if ":" in host:
            host = f"[{host}]"
        is_default = self.port == _DEFAULT_PORTS.get(self.scheme, 80)
        return host if is_default else f"{host}:{self.port}"

    @property
    def redacted(self) -> str:
        """The URL for logs and messages: ``***`` for the password and what looks like one."""
        userinfo = ""
        if self.username is not None:
            secret = "" if self.password is None else ":***"
            userinfo = f"{quote(self.username, safe='')}{secret}@"
        where = self.host_header
        if self.unix_path is not None:
            where = f"{quote(self.unix_path)}:"
        return f"{self.scheme}://{userinfo}{where}{redacted_target(self.path)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.redacted!r})"


def parse_url(url: str) -> WSParsedURL:
    """Take a ``ws://``, ``wss://`` or ``ws+unix://`` URL apart.

    ``ws+unix:///run/x.sock:/path?query`` names a Unix socket and, behind the colon, the request
    target; a colon in the socket's own path is written ``%3A``.

    Raises ``WSInvalidURL`` (a ``WSError`` and ``ValueError``) that names the URL, without its
    password, and the rule that it breaks, and ``TypeError`` for anything but a ``str``.
    """
    fail = partial(_invalid, "WebSocket", url)
    scheme, rest = _parse_scheme(url, fail)
    if scheme not in ("ws", "wss", "ws+unix"):
        raise fail("it must begin with ws://, wss:// or ws+unix://")
    # RFC 6455 section 3: "Fragment identifiers are meaningless in the context of WebSocket URIs
    # and MUST NOT be used on these URIs."
    if "#" in rest:
        raise fail('a WebSocket URL has no fragment; "#" in a path is written %23')
    if scheme == "ws+unix":
        return _parse_unix(url, rest, fail)
    return _parse_authority_and_target(url, scheme, rest, fail)


def parse_proxy_url(url: str) -> WSParsedURL:
    """Take the URL of a proxy apart: ``http://``, ``https://``, ``socks4://``, ``socks5://``.

    Raises as ``parse_url`` does.
    """
    fail = partial(_invalid, "proxy", url)
    scheme, rest = _parse_scheme(url, fail, "proxy")
    if scheme not in _PROXY_SCHEMES:
        known = ", ".join(f"{each}://" for each in _PROXY_SCHEMES)
        raise fail(f"it must begin with one of {known}")
    parsed = _parse_authority_and_target(url, scheme, rest, fail)
    if parsed.path != "/":
        raise fail("it must have no path")
    if scheme == "socks4" and parsed.password is not None:
        raise fail("SOCKS4 knows a user but no password")
    if scheme == "socks5":
        # RFC 1929 section 2: one byte for each length.
        for each in (parsed.username or "", parsed.password or ""):
            if len(each.encode()) > 255:
                raise fail("SOCKS5 knows a user and a password of at most 255 bytes")
    return parsed


def resolve_redirect(base: WSParsedURL, location: str) -> WSParsedURL:
    """The URL to which the server at `base` redirects by the field value `location`.

    ``http`` and ``https`` count as ``ws`` and ``wss``; a fragment is dropped (RFC 9110 section
    10.2.2). User and password of `base` stay as long as the origin does. Raises ``WSInvalidURL``,
    also for a step from TLS to plain TCP and for one into the file system.
    """
    fail = partial(_invalid, "WebSocket", location)
    if not location or _CONTROL_OR_SPACE.search(location):
        raise fail("a Location must be a URL reference")
    location = location.partition("#")[0]
    if location.startswith("//"):
        scheme, rest = "ws" if base.unix_path is not None else base.scheme, location[2:]
    elif match := _SCHEME.match(location):
        scheme, rest = match[1].lower(), location[match.end() :]
        if scheme not in _WEBSOCKET_SCHEMES or not rest.startswith("//"):
            raise fail("a redirect leads to ws://, wss://, http:// or https://")
        scheme, rest = _WEBSOCKET_SCHEMES[scheme], rest[2:]
    else:
        # Of the same origin, whatever that is.
        path = _quoted_target(_resolve_reference(base.path, location))
        return replace(base, url=_with_path(base, path), path=path)
    if base.is_secure and scheme == "ws":
        raise fail("a redirect from wss to ws is refused")
    url = parse_url(f"{scheme}://{rest}")
    if url.username is None and url.origin == base.origin:
        url = replace(url, username=base.username, password=base.password)
    return url


def redacted_target(target: str) -> str:
    """A request target for logs, with ``***`` for what is by its name a credential."""
    return _SECRET_PARAMETER.sub(r"\1***", target)


def _parse_scheme(url: str, fail: Fail, what: str = "url") -> tuple[str, str]:
    """The scheme in lower case, and what follows its "://"."""
    if not isinstance(url, str):
        raise TypeError(f"{what} must be a str, not {type(url).__name__}")
    if not (url.isascii() and url.isprintable()) or " " in url:
        if _CONTROL_OR_SPACE.search(url):
            raise fail("it holds a space or a control character")
        try:
            url.encode("utf-8")
        except UnicodeEncodeError:
            raise fail("it holds a lone surrogate") from None
    scheme, separator, rest = url.partition("://")
    return (scheme.lower(), rest) if separator else ("", url)


def _parse_authority_and_target(url: str, scheme: str, rest: str, fail: Fail) -> WSParsedURL:
    authority, slash, target = rest.partition("/")
    target = slash + target
    if "?" in authority:
        authority, question_mark, query = authority.partition("?")
        target = question_mark + query + target
    userinfo, _, host_and_port = authority.rpartition("@")
    username, password = _parse_userinfo(fail, userinfo) if userinfo else (None, None)
    host, port = _parse_host_and_port(fail, host_and_port)
    if not target.startswith("/"):
        target = "/" + target
    if port is None:
        port = _DEFAULT_PORTS[scheme]
    return WSParsedURL(url, scheme, host, port, _quoted_target(target), username, password)


def _parse_unix(url: str, rest: str, fail: Fail) -> WSParsedURL:
    socket_path, colon, target = rest.partition(":")
    if not socket_path.startswith("/"):
        raise fail("ws+unix:// is followed by the absolute path of a socket")
    try:
        unix_path = unquote_to_bytes(socket_path).decode("utf-8")
    except UnicodeDecodeError:
        raise fail("the path of the socket is not percent-encoded UTF-8") from None
    if "\0" in unix_path:
        raise fail("the path of the socket holds a NUL")
    if "?" in socket_path or (colon and not target.startswith("/")):
        raise fail("behind the socket stand a colon and the request target: :/path?query")
    return WSParsedURL(
        url=url,
        scheme="ws+unix",
        host="localhost",
        port=80,
        path=_quoted_target(target or "/"),
        unix_path=unix_path,
    )


def _quoted_target(target: str) -> str:
    # quote() takes twice as long to find that nothing has to be done.
    return target if _SAFE_TARGET.fullmatch(target) else quote(target, safe=_TARGET_SAFE)


def _resolve_reference(base: str, reference: str) -> str:
    """
    RFC 3986 section 5.2 for a path and query. Not urljoin, which loses empty segments, and in
    Python 3.10 takes "1:b" for something else.
    """
    base_path, _, base_query = base.partition("?")
    path, question_mark, query = reference.partition("?")
    if not path:
        path = base_path
        if not question_mark:
            question_mark, query = "?" if base_query else "", base_query
    elif not path.startswith("/"):
        path = base_path[: base_path.rindex("/") + 1] + path
    segments = path.split("/")[1:]
    kept: list[str] = []
    for number, segment in enumerate(segments, 1):
        if segment == ".." and kept:
            kept.pop()
        if segment not in (".", ".."):
            kept.append(segment)
        elif number == len(segments):
            kept.append("")
    return "/" + "/".join(kept) + question_mark + query


def _with_path(url: WSParsedURL, path: str) -> str:
    """`url` with another request target, as a user would write it."""
    if url.unix_path is not None:
        return f"ws+unix://{quote(url.unix_path)}:{path}"
    userinfo = ""
    if url.username is not None:
        secret = "" if url.password is None else ":" + quote(url.password, safe="")
        userinfo = f"{quote(url.username, safe='')}{secret}@"
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = "" if url.port == _DEFAULT_PORTS[url.scheme] else f":{url.port}"
    return f"{url.scheme}://{userinfo}{host}{port}{path}"


def _parse_userinfo(fail: Fail, userinfo: str) -> tuple[str, str | None]:
    username, colon, password = userinfo.partition(":")
    try:
        username = unquote_to_bytes(username).decode("utf-8")
        password = unquote_to_bytes(password).decode("utf-8")
    except UnicodeDecodeError:
        raise fail("user or password is not percent-encoded UTF-8") from None
    # RFC 7617 section 2: neither holds control characters, and the first colon ends the name.
    if _CONTROL.search(username) or _CONTROL.search(password):
        raise fail("user or password holds a control character")
    if ":" in username:
        raise fail("a user name with a colon cannot be sent as Basic Authorization")
    return username, password if colon else None


def _parse_host_and_port(fail: Fail, authority: str) -> tuple[str, int | None]:
    if authority.startswith("["):
        literal, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise fail("the brackets of the IPv6 address do not match")
        host = _parse_ipv6(fail, literal)
        port = rest[1:]
    else:
        name, _, port = authority.partition(":")
        if ":" in port:
            raise fail("an IPv6 address stands in brackets; a port is digits")
        host = _parse_name(fail, name)
    if not port:  # RFC 3986 section 3.2.3: an empty port is the default one
        return host, None
    # A fixed number of ASCII digits: int() would take "+80", "8_0" and other scripts' digits.
    number = int(port) if _PORT.fullmatch(port) else 0
    if not 1 <= number <= 65535:
        raise fail("the port must be a number from 1 to 65535")
    return host, number


def _parse_ipv6(fail: Fail, literal: str) -> str:
    address, percent, zone = literal.partition("%")
    if percent:
        # RFC 6874 section 2 writes "%25eth0"; people paste "%eth0" as their tools print it.
        if zone.startswith("25"):
            zone = zone[2:]
        if not _ZONE.fullmatch(zone):
            raise fail("the zone of the IPv6 address is empty or malformed")
    try:
        IPv6Address(address)
    except AddressValueError:
        raise fail("the address in brackets is no IPv6 address") from None
    return address.lower() + (f"%{zone}" if percent else "")


def _parse_name(fail: Fail, name: str) -> str:
    if not name:
        raise fail("it has no host")
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
        raise fail("the host is no valid name or IPv4 address")
    return name


def _invalid(kind: str, url: str, rule: str) -> WSInvalidURL:
    shown = redacted_target(_PASSWORD.sub(r"\1***@", url, count=1))
    return WSInvalidURL(url, f"invalid {kind} URL {shown!r}: {rule}")
