"""urls.py: what is taken apart how, what is refused, what is never shown."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picows.errors import WSError, WSInvalidURL
from picows.urls import WSParsedURL, parse_url, redacted_target


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
