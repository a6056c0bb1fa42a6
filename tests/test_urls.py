"""urls.py: what is taken apart how, where redirects lead, what is refused, what is never shown."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picows.errors import WSError, WSInvalidURL
from picows.urls import (
    WSParsedURL,
    parse_proxy_url,
    parse_url,
    redacted_target,
    resolve_redirect,
)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("ws://example.com", "ws", "example.com", 80, "/"),
        ("wss://example.com", "wss", "example.com", 443, "/"),
        ("WSS://Example.COM:9443/WS", "wss", "example.com", 9443, "/WS"),
        ("ws://h:/", "ws", "h", 80, "/"),
        ("ws://h:1/", "ws", "h", 1, "/"),
        ("ws://h:65535/", "ws", "h", 65535, "/"),
        ("ws://h:00080/", "ws", "h", 80, "/"),
        ("ws://h?a=1", "ws", "h", 80, "/?a=1"),
        ("ws://h?a=/x", "ws", "h", 80, "/?a=/x"),
        ("ws://h/a?b=c?d&e=@:f", "ws", "h", 80, "/a?b=c?d&e=@:f"),
        ("ws://h//double//", "ws", "h", 80, "//double//"),
        ("ws://h/btcusdt@trade", "ws", "h", 80, "/btcusdt@trade"),
        ("ws://h/%2F%zz%", "ws", "h", 80, "/%2F%zz%"),
        ("ws://h/für?ü=é", "ws", "h", 80, "/f%C3%BCr?%C3%BC=%C3%A9"),
        ('ws://h/"<>\\^`{|}', "ws", "h", 80, "/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("ws://h/!$&'()*+,;=:@[]~-._", "ws", "h", 80, "/!$&'()*+,;=:@[]~-._"),
        ("ws://127.0.0.1:9001/", "ws", "127.0.0.1", 9001, "/"),
        ("ws://my_service.local./", "ws", "my_service.local.", 80, "/"),
        ("ws://münchen.de/", "ws", "xn--mnchen-3ya.de", 80, "/"),
        ("ws://" + "a" * 63 + ".x/", "ws", "a" * 63 + ".x", 80, "/"),
    ],
)
def test_parts(url, scheme, host, port, path):
    parsed = parse_url(url)
    assert (parsed.scheme, parsed.host, parsed.port, parsed.path) == (scheme, host, port, path)
    assert parsed.is_secure == (scheme == "wss")
    assert parsed.url == url


@pytest.mark.parametrize(
    ("url", "host_header"),
    [
        ("ws://h", "h"),
        ("ws://h:80", "h"),
        ("ws://h:443", "h:443"),
        ("wss://h:443", "h"),
        ("wss://h:80", "h:80"),
        ("ws://u:p@h:81", "h:81"),
    ],
)
def test_host_header(url, host_header):
    assert parse_url(url).host_header == host_header


@pytest.mark.parametrize(
    ("url", "host", "port", "host_header"),
    [
        ("ws://[::1]", "::1", 80, "[::1]"),
        ("ws://[2001:DB8::1]:9001/", "2001:db8::1", 9001, "[2001:db8::1]:9001"),
        ("wss://u:p@[::1]:443/", "::1", 443, "[::1]"),
        ("ws://[::ffff:1.2.3.4]/", "::ffff:1.2.3.4", 80, "[::ffff:1.2.3.4]"),
        ("ws://[fe80::1%25eth0]:1/", "fe80::1%eth0", 1, "[fe80::1]:1"),
        ("ws://[fe80::1%eth0]/", "fe80::1%eth0", 80, "[fe80::1]"),
    ],
)
def test_line_10_ipv6_literal(url, host, port, host_header):
    parsed = parse_url(url)
    assert (parsed.host, parsed.port, parsed.host_header) == (host, port, host_header)


@pytest.mark.parametrize(
    ("userinfo", "username", "password"),
    [
        ("", None, None),
        ("@", None, None),
        ("user@", "user", None),
        ("user:@", "user", ""),
        (":pw@", "", "pw"),
        ("u%40x:p%3Aq%2F%23@", "u@x", "p:q/#"),
        ("j%C3%B6rg:p%C3%A9@", "jörg", "pé"),
        ("user:p@w@", "user", "p@w"),
        ("user:a:b@", "user", "a:b"),
    ],
)
def test_line_10_userinfo_is_percent_decoded_and_never_in_host(userinfo, username, password):
    parsed = parse_url(f"ws://{userinfo}example.com:8080/x")
    assert (parsed.username, parsed.password) == (username, password)
    assert parsed.host == "example.com"
    assert parsed.host_header == "example.com:8080"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "ws://, wss:// or ws+unix://"),
        ("example.com", "ws://, wss:// or ws+unix://"),
        ("ws", "ws://, wss:// or ws+unix://"),
        ("wss:", "ws://, wss:// or ws+unix://"),
        ("//example.com/", "ws://, wss:// or ws+unix://"),
        ("http://example.com/", "ws://, wss:// or ws+unix://"),
        ("ws:example.com", "ws://, wss:// or ws+unix://"),
        ("wsx://example.com", "ws://, wss:// or ws+unix://"),
        ("ws://", "no host"),
        ("ws:///path", "no host"),
        ("ws://?query", "no host"),
        ("ws://:80/", "no host"),
        ("ws://user:pw@/", "no host"),
        ("ws://h/#", "fragment"),
        ("ws://h/a#b", "fragment"),
        ("ws://h#b", "fragment"),
        ("ws://h:0/", "port"),
        ("ws://h:65536/", "port"),
        ("ws://h:000080/", "port"),
        ("ws://h:+80/", "port"),
        ("ws://h:8_0/", "port"),
        ("ws://h:-1/", "port"),
        ("ws://h:٨٠/", "port"),
        ("ws://h:http/", "port"),
        ("ws://h:" + "1" * 5000, "port"),
        ("ws://::1/", "brackets"),
        ("ws://2001:db8::1:80/", "brackets"),
        ("ws://[::1/", "brackets"),
        ("ws://[::1]80/", "brackets"),
        ("ws://[]/", "no IPv6"),
        ("ws://[v1.x]/", "no IPv6"),
        ("ws://[127.0.0.1]/", "no IPv6"),
        ("ws://[::1::]/", "no IPv6"),
        ("ws://[[::1]]/", "brackets"),
        ("ws://[fe80::1%]/", "zone"),
        ("ws://[fe80::1%25]/", "zone"),
        ("ws://[fe80::1%25et/h0]/", "brackets"),
        ("ws://[fe80::1%25et^h0]/", "zone"),
        ("ws://a..b/", "host"),
        ("ws://.a/", "host"),
        ("ws://./", "host"),
        ("ws://" + "a" * 64 + "/", "host"),
        ("ws://" + "a." * 127 + "aa", "host"),
        ("ws://a%41/", "host"),
        ("ws://a,b/", "host"),
        ("ws://a\\b/", "host"),
        ("ws://good.com\\@evil,com/", "host"),
        ("ws://ü..de/", "host"),
        ("ws://" + "ü" * 254 + "/", "host"),
        ("ws://a\u2100b/", "host"),  # whose normalised form holds a "/"
        ("ws://\u200b/", "host"),
        ("ws://h/a b", "space"),
        (" ws://h/", "space"),
        ("ws://h/\r\nX: y", "space or a control"),
        ("ws://h/\n", "space or a control"),
        ("ws://h\t/", "space or a control"),
        ("ws://h/\x00", "space or a control"),
        ("ws://h/\x7f", "space or a control"),
        ("ws://h/\ud800", "surrogate"),
        ("ws://u%00:p@h/", "control"),
        ("ws://u:p%0D%0A@h/", "control"),
        ("ws://u%3Av:p@h/", "colon"),
        ("ws://u%FF:p@h/", "UTF-8"),
        ("ws://u:p%FF@h/", "UTF-8"),
    ],
)
def test_refused(url, rule):
    with pytest.raises(WSInvalidURL, match=re.escape(rule)) as caught:
        parse_url(url)
    assert caught.value.url == url
    assert "invalid WebSocket URL" in str(caught.value)
    str(caught.value).encode("utf-8")  # a lone surrogate would break the log


@pytest.mark.parametrize("url", [b"ws://h/", None, 1])
def test_not_a_str(url):
    with pytest.raises(TypeError, match=f"url must be a str, not {type(url).__name__}"):
        parse_url(url)


def test_message_names_the_url():
    with pytest.raises(WSInvalidURL) as caught:
        parse_url("http://example.com/x")
    assert str(caught.value) == (
        "invalid WebSocket URL 'http://example.com/x': it must begin with ws://, wss:// or ws+unix://"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://user:geheim@h/",
        "ws://user:geheim@h:x/",
        "ws://user:geheim/x@h/",
        "ws://user:a#geheim@h/",
        "ws://user:a@geheim@h:x/",
        "ws://user:a:geheim@h:x/",
        "ws://user:ge heim@h/geheim@",
        "user:geheim@h/",
        "user:geheim:x@h/",
        "http:user:geheim@h/",
        "//user:geheim@h/",
        " ws://user:geheim@h/",
        "ws://user:geheim\n@h/",
        "ws://h/x#?token=geheim",
    ],
)
def test_line_15_messages_hide_the_password(url):
    with pytest.raises(WSInvalidURL) as caught:
        parse_url(url)
    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("ws://h:81/a?b=c", "ws://h:81/a?b=c"),
        ("wss://user:geheim@h/", "wss://user:***@h/"),
        ("ws://user@h/", "ws://user@h/"),
        ("ws://a%40b:geheim@[::1]:9/@x:y@", "ws://a%40b:***@[::1]:9/@x:y@"),
        ("ws://h:81/x?u=@", "ws://h:81/x?u=@"),
        ("ws://h/?listenKey=geheim&b=1&Access_Token=geheim", None),
        ("ws://h/?a=1&signature=geheim&sign=geheim", None),
    ],
)
def test_line_15_redacted(url, redacted):
    parsed = parse_url(url)
    assert "geheim" not in parsed.redacted
    assert "geheim" not in repr(parsed)
    assert repr(parsed) == f"WSParsedURL({parsed.redacted!r})"
    if redacted is not None:
        assert parsed.redacted == redacted


def test_redacted_target():
    assert redacted_target("/key=1?x=2&apiKey=3&key=&y") == "/key=1?x=2&apiKey=***&key=***&y"


def test_value_object():
    assert parse_url("ws://h/") == parse_url("ws://h/")
    assert hash(parse_url("ws://h/")) == hash(parse_url("ws://h/"))
    with pytest.raises(AttributeError):
        parse_url("ws://h/").host = "other"
    # What socket_factory gets for a proxy is made by hand: schemes without a default port.
    assert WSParsedURL("", "socks5", "h", 80, "/").host_header == "h:80"


@given(st.text())
def test_any_text_is_parsed_or_refused(text):
    for url in (text, "ws://" + text, "ws://h/" + text, "ws://u:p@" + text, "ws://[" + text):
        try:
            parsed = parse_url(url)
        except WSError:
            continue
        for part in (parsed.host, parsed.path, parsed.host_header):
            assert re.fullmatch(r"[\x21-\x7e]+", part)
        assert parsed.path.startswith("/")
        assert "#" not in parsed.path
        assert 1 <= parsed.port <= 65535
        # What is shown can be parsed again, and means the same place.
        again = parse_url(parsed.redacted)
        assert again.host_header == parsed.host_header


# -- Unix sockets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "unix_path", "path", "redacted"),
    [
        ("ws+unix:///run/x.sock", "/run/x.sock", "/", "ws+unix:///run/x.sock:/"),
        ("ws+unix:///run/x.sock:/", "/run/x.sock", "/", "ws+unix:///run/x.sock:/"),
        ("WS+UNIX:///Run/X:/P?Q", "/Run/X", "/P?Q", "ws+unix:///Run/X:/P?Q"),
        # The first colon ends the socket's path, whatever follows.
        ("ws+unix:///x:/a:b?c:d", "/x", "/a:b?c:d", "ws+unix:///x:/a:b?c:d"),
        ("ws+unix:///a%3Ab:/c", "/a:b", "/c", "ws+unix:///a%3Ab:/c"),
        ("ws+unix:///a%3ab%253A:/", "/a:b%3A", "/", "ws+unix:///a%3Ab%253A:/"),
        # What begins something else in other URLs, and is part of a file's name here.
        ("ws+unix:///a@b%3F%23%20:/", "/a@b?# ", "/", "ws+unix:///a%40b%3F%23%20:/"),
        ("ws+unix:///ü:/ü", "/ü", "/%C3%BC", "ws+unix:///%C3%BC:/%C3%BC"),
        ("ws+unix:///x:/?token=geheim", "/x", "/?token=geheim", "ws+unix:///x:/?token=***"),
    ],
)
def test_unix_socket(url, unix_path, path, redacted):
    parsed = parse_url(url)
    assert (parsed.scheme, parsed.unix_path, parsed.path) == ("ws+unix", unix_path, path)
    assert (parsed.host, parsed.host_header) == ("localhost", "localhost")
    assert (parsed.username, parsed.password) == (None, None)
    assert not parsed.is_secure
    assert parsed.redacted == redacted
    # What is shown names the same socket.
    assert parse_url(redacted).unix_path == unix_path
    assert parse_url("ws://localhost/").unix_path is None


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ws+unix:", "ws://, wss:// or ws+unix://"),
        ("ws+unix:/run/x.sock", "ws://, wss:// or ws+unix://"),
        ("wss+unix:///run/x.sock", "ws://, wss:// or ws+unix://"),
        ("unix:///run/x.sock", "ws://, wss:// or ws+unix://"),
        ("ws+unix://", "absolute path of a socket"),
        ("ws+unix://run/x.sock:/", "absolute path of a socket"),
        ("ws+unix://localhost/run/x.sock:/", "absolute path of a socket"),
        ("ws+unix://user:pw@/run/x.sock:/", "absolute path of a socket"),
        ("ws+unix://%2Frun/x.sock:/", "absolute path of a socket"),
        ("ws+unix://:/path", "absolute path of a socket"),
        ("ws+unix:///run/x.sock:", ":/path?query"),
        ("ws+unix:///run/x.sock:path", ":/path?query"),
        ("ws+unix:///run/x.sock:8080/path", ":/path?query"),
        ("ws+unix:///run/x.sock:?query", ":/path?query"),
        ("ws+unix:///run/x.sock?query", ":/path?query"),
        ("ws+unix:///run/x.sock?query:/", ":/path?query"),
        ("ws+unix:///run/%00x:/", "NUL"),
        ("ws+unix:///run/%FF:/", "UTF-8"),
        ("ws+unix:///run/x y:/", "space or a control"),
        ("ws+unix:///run/x\0y:/", "space or a control"),
        ("ws+unix:///run/x:/#", "fragment"),
        ("ws+unix:///run/#x:/", "fragment"),
        ("ws+unix:///run/\ud800:/", "surrogate"),
    ],
)
def test_unix_socket_refused(url, rule):
    with pytest.raises(WSInvalidURL, match=re.escape(rule)) as caught:
        parse_url(url)
    assert caught.value.url == url


# -- proxies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "username", "password", "redacted"),
    [
        ("http://h", "http", "h", 80, None, None, "http://h/"),
        ("https://h/", "https", "h", 443, None, None, "https://h/"),
        ("socks4://h", "socks4", "h", 1080, None, None, "socks4://h/"),
        ("SOCKS5://H:9", "socks5", "h", 9, None, None, "socks5://h:9/"),
        ("socks4://me@h", "socks4", "h", 1080, "me", None, "socks4://me@h/"),
        (
            "http://u%40:p%3A@[::1]:3128",
            "http",
            "::1",
            3128,
            "u@",
            "p:",
            "http://u%40:***@[::1]:3128/",
        ),
        ("socks5://:geheim@h", "socks5", "h", 1080, "", "geheim", "socks5://:***@h/"),
    ],
)
def test_proxy(url, scheme, host, port, username, password, redacted):
    parsed = parse_proxy_url(url)
    assert (parsed.scheme, parsed.host, parsed.port) == (scheme, host, port)
    assert (parsed.username, parsed.password) == (username, password)
    assert parsed.is_secure == (scheme == "https")
    assert parsed.redacted == redacted
    assert "geheim" not in repr(parsed)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "http://, https://, socks4://, socks5://"),
        ("h:3128", "http://, https://, socks4://, socks5://"),
        ("ws://h", "http://, https://, socks4://, socks5://"),
        ("socks://h", "http://, https://, socks4://, socks5://"),
        ("socks5h://h", "http://, https://, socks4://, socks5://"),
        ("http:h", "http://, https://, socks4://, socks5://"),
        ("http://", "no host"),
        ("http://h/path", "no path"),
        ("http://h?query", "no path"),
        ("http://h/#", "no path"),
        ("http://h:0", "port"),
        ("http://::1:80", "brackets"),
        ("http://h\r\nX: y", "space or a control"),
        ("http://u%0D%0A:p@h", "control character"),
        ("socks4://me:geheim@h", "SOCKS4"),
        ("socks4://me:@h", "SOCKS4"),
        ("http://me:geheim@h/path", "no path"),
    ],
)
def test_proxy_refused(url, rule):
    with pytest.raises(WSInvalidURL, match=re.escape(rule)) as caught:
        parse_proxy_url(url)
    assert caught.value.url == url
    assert "invalid proxy URL" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_proxy_not_a_str():
    with pytest.raises(TypeError, match="proxy must be a str"):
        parse_proxy_url(b"http://h")


# -- redirects (line 9) ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "target"),
    [
        # RFC 3986 section 5.4, but for the fragments, which RFC 9110 section 10.2.2 keeps for the
        # client's own use; a WebSocket has none.
        ("g", "/b/c/g"),
        ("./g", "/b/c/g"),
        ("g/", "/b/c/g/"),
        ("/g", "/g"),
        ("?y", "/b/c/d;p?y"),
        ("g?y", "/b/c/g?y"),
        ("#s", "/b/c/d;p?q"),
        ("g#s", "/b/c/g"),
        ("g?y#s", "/b/c/g?y"),
        (";x", "/b/c/;x"),
        ("g;x", "/b/c/g;x"),
        ("g;x?y#s", "/b/c/g;x?y"),
        (".", "/b/c/"),
        ("./", "/b/c/"),
        ("..", "/b/"),
        ("../", "/b/"),
        ("../g", "/b/g"),
        ("../..", "/"),
        ("../../", "/"),
        ("../../g", "/g"),
        ("../../../g", "/g"),
        ("../../../../g", "/g"),
        ("/./g", "/g"),
        ("/../g", "/g"),
        ("g.", "/b/c/g."),
        (".g", "/b/c/.g"),
        ("g..", "/b/c/g.."),
        ("..g", "/b/c/..g"),
        ("./../g", "/b/g"),
        ("./g/.", "/b/c/g/"),
        ("g/./h", "/b/c/g/h"),
        ("g/../h", "/b/c/h"),
        ("g;x=1/./y", "/b/c/g;x=1/y"),
        ("g;x=1/../y", "/b/c/y"),
        ("g?y/./x", "/b/c/g?y/./x"),
        ("g?y/../x", "/b/c/g?y/../x"),
        ("g#s/../x", "/b/c/g"),
        # What looks like a scheme, or like an authority, and is a path.
        ("/a:b", "/a:b"),
        ("./a:b", "/b/c/a:b"),
        ("1:b", "/b/c/1:b"),
        ("/http://x/", "/http://x/"),
        ("/\\x/", "/%5Cx/"),
        ("\\\\x/", "/b/c/%5C%5Cx/"),
        ("/a//b", "/a//b"),
        ("/%2F%zz", "/%2F%zz"),
        ("/[::1]@x", "/[::1]@x"),
        ("?//x/../y", "/b/c/d;p?//x/../y"),
    ],
)
@pytest.mark.parametrize(
    "base",
    ["ws://u:p@a:81/b/c/d;p?q", "wss://[::1]/b/c/d;p?q", "ws+unix:///run/x%3Ay.sock:/b/c/d;p?q"],
)
def test_redirect_within_the_origin(base, location, target):
    start = parse_url(base)
    resolved = resolve_redirect(start, location)
    assert resolved == replace(start, path=target, url=resolved.url)
    assert resolved.origin == start.origin
    # socket_factory may look at the URL as a whole.
    assert parse_url(resolved.url) == resolved


def test_redirect_behind_a_path_with_empty_segments():
    """RFC 3986 section 5.2.3: only what is behind the last slash is replaced."""
    assert resolve_redirect(parse_url("ws://h//a//b"), "c").path == "//a//c"


def test_redirect_keeps_the_zone():
    resolved = resolve_redirect(parse_url("ws://[fe80::1%25eth0]:81/"), "/x")
    assert resolved.host == "fe80::1%eth0"
    assert parse_url(resolved.url) == resolved


@pytest.mark.parametrize(
    ("base", "location", "redacted"),
    [
        ("ws://a/x", "ws://b", "ws://b/"),
        ("ws://a/x", "http://b?y", "ws://b/?y"),
        ("ws://a/x", "HTTP://B:81/Y#s", "ws://b:81/Y"),
        ("ws://a/x", "https://b/y", "wss://b/y"),
        ("ws://a/x", "wss://b:80/y", "wss://b:80/y"),
        ("ws://a/x", "//b", "ws://b/"),
        ("ws://a/x", "//b:81#s", "ws://b:81/"),
        ("wss://a:81/x", "//b/y", "wss://b/y"),
        ("wss://a/x", "https://b/y", "wss://b/y"),
        ("wss://a/x", "wss://b/y", "wss://b/y"),
        ("ws://a/x", "http://münchen.de/", "ws://xn--mnchen-3ya.de/"),
        ("ws://a/x", "//[::1]:81/y", "ws://[::1]:81/y"),
        # From a Unix socket into the network; the other way is refused.
        ("ws+unix:///s:/x", "//b/y", "ws://b/y"),
        ("ws+unix:///s:/x", "http://localhost/y", "ws://localhost/y"),
        ("ws+unix:///s:/x", "wss://b/y", "wss://b/y"),
    ],
)
def test_redirect_to_another_origin(base, location, redacted):
    start = parse_url(base)
    resolved = resolve_redirect(start, location)
    assert resolved.redacted == redacted
    assert resolved.origin != start.origin
    assert resolved.unix_path is None


@pytest.mark.parametrize(
    ("base", "location", "username", "password"),
    [
        ("ws://u:p@a/", "/x", "u", "p"),
        ("ws://u:p@a/", "//a/x", "u", "p"),
        ("ws://u:p@a/", "ws://a:80/x", "u", "p"),
        ("ws://u:p@a/", "http://A/x", "u", "p"),
        ("wss://u:p@a/", "https://a:443/x", "u", "p"),
        ("ws://u@a/", "/x", "u", None),
        # The Location's own.
        ("ws://u:p@a/", "//v:q@a/x", "v", "q"),
        ("ws://u:p@a/", "//v@a/x", "v", None),
        ("ws://u:p@a/", "http://v:q@b/x", "v", "q"),
        # Another scheme, host or port: another origin.
        ("ws://u:p@a/", "https://a/x", None, None),
        ("ws://u:p@a:81/", "wss://a:81/x", None, None),
        ("ws://u:p@a/", "//b/x", None, None),
        ("ws://u:p@a/", "//a:81/x", None, None),
        ("ws://u:p@a/", "//a.b/x", None, None),
        ("ws://u:p@a/", "//x.a/x", None, None),
        ("wss://u:p@a:444/", "//a/x", None, None),
    ],
)
def test_redirect_and_userinfo(base, location, username, password):
    resolved = resolve_redirect(parse_url(base), location)
    assert (resolved.username, resolved.password) == (username, password)


@pytest.mark.parametrize(
    ("base", "location", "rule"),
    [
        ("ws://a/", "", "URL reference"),
        ("ws://a/", " /x", "URL reference"),
        ("ws://a/", "/x y", "URL reference"),
        ("ws://a/", "/x\r\nX: y", "URL reference"),
        ("ws://a/", "/x\0", "URL reference"),
        ("ws://a/", "http:", "ws://, wss://, http:// or https://"),
        ("ws://a/", "http:/x", "ws://, wss://, http:// or https://"),
        ("ws://a/", "http:x", "ws://, wss://, http:// or https://"),
        ("ws://a/", "ftp://b/", "ws://, wss://, http:// or https://"),
        ("ws://a/", "file:///etc/passwd", "ws://, wss://, http:// or https://"),
        ("ws://a/", "javascript:x", "ws://, wss://, http:// or https://"),
        ("ws://a/", "socks5://b/", "ws://, wss://, http:// or https://"),
        ("ws://a/", "a:81/x", "ws://, wss://, http:// or https://"),
        # Never into the file system, not even to where it came from.
        ("ws://a/", "ws+unix:///run/docker.sock:/x", "ws://, wss://, http:// or https://"),
        ("ws://a/", "WS+UNIX:///run/docker.sock:/x", "ws://, wss://, http:// or https://"),
        ("ws+unix:///s:/", "ws+unix:///s:/x", "ws://, wss://, http:// or https://"),
        ("wss://a/", "ws://a/", "from wss to ws"),
        ("wss://a/", "WS://a/", "from wss to ws"),
        ("wss://a/", "http://a/", "from wss to ws"),
        ("wss://a/", "http://a:443/", "from wss to ws"),
        ("ws://a/", "//", "no host"),
        ("ws://a/", "///x", "no host"),
        ("ws://a/", "http:///x", "no host"),
        ("ws://a/", "//:80/", "no host"),
        ("ws://a/", "//b:0/", "port"),
        ("ws://a/", "//b:99999/", "port"),
        ("ws://a/", "//b:x/", "port"),
        ("ws://a/", "//b..c/", "host"),
        ("ws://a/", "//[::1/", "brackets"),
        ("ws://a/", "//u:%FF@b/", "UTF-8"),
        ("ws://a/", "//u:p%0D%0A@b/", "control"),
    ],
)
def test_redirect_refused(base, location, rule):
    with pytest.raises(WSInvalidURL, match=re.escape(rule)):
        resolve_redirect(parse_url(base), location)


@given(st.one_of(st.text(), st.text("/.:?#@[]%ahtpswx1+\\")))
def test_any_location_is_resolved_or_refused(location):
    for base in ("ws://u:p@h:81/a/b?c", "wss://h/a", "ws+unix:///s:/a/b"):
        start = parse_url(base)
        try:
            resolved = resolve_redirect(start, location)
        except WSError:
            continue
        assert re.fullmatch(r"/[\x21-\x7e]*", resolved.path)
        assert "#" not in resolved.path
        assert resolved.is_secure or not start.is_secure
        assert resolved.unix_path in (None, start.unix_path)
        if resolved.origin != start.origin:
            # It says itself where it leads, and brings its own user or none.
            assert "//" in location
            assert resolved.username is None or "@" in location
        again = parse_url(resolved.url)
        assert (again.origin, again.path) == (resolved.origin, resolved.path)
