"""errors.py: the tree, the attributes, what a message and a repr show."""

import copy
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from multidict import CIMultiDict

from picows import errors
from picows.handshake.http11 import WSUpgradeResponse

RESPONSE = WSUpgradeResponse(b"HTTP/1.1", 599, CIMultiDict({"A": "b"}), b"body")
KEYWORDS = {"raw_header": b"head", "raw_body": b"body", "response": RESPONSE}

EXAMPLES = [
    errors.WSError("text"),
    errors.WSInvalidURL("http://u:geheim@h/", "text"),
    errors.WSHandshakeError("text", **KEYWORDS),
    errors.WSInvalidMessageError("text", **KEYWORDS),
    errors.WSInvalidStatusError("text", **KEYWORDS),
    errors.WSInvalidHeaderError("Name", "value", "text", **KEYWORDS),
    errors.WSInvalidUpgradeError("Upgrade", None, "text", **KEYWORDS),
    errors.WSProtocolError(1002, "text"),
]


def test_docstring_draws_the_tree():
    # The picture is what people read: a class that moves or joins must be moved in it too.
    drawn = {}
    path = []
    for indent, name in re.findall(r"^( {4,})(WS\w+) ", errors.__doc__, re.MULTILINE):
        depth = len(indent) // 2 - 2
        path[depth:] = [name]
        drawn[name] = path[depth - 1] if depth else "Exception"
    defined = {
        name: cls.__base__.__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if cls.__module__ == errors.__name__
    }
    assert drawn == defined
    assert set(errors.__all__) == set(defined)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_str_is_the_message(error):
    assert str(error) == "text"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, lambda error: pickle.loads(pickle.dumps(error))],
    ids=["copy", "pickle"],
)
def test_survives_copy_and_pickle(error, duplicate):
    other = duplicate(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    for name in ("url", "name", "value", "code", "raw_header", "raw_body"):
        assert getattr(other, name, "none") == getattr(error, name, "none")
    if isinstance(error, errors.WSHandshakeError):
        assert other.response.status == 599
        assert other.response.headers == RESPONSE.headers


def test_attributes():
    assert EXAMPLES[1].url == "http://u:geheim@h/"
    for error in EXAMPLES[2:7]:
        assert (error.raw_header, error.raw_body) == (b"head", b"body")
        assert error.response is RESPONSE
    bare = errors.WSHandshakeError("text")
    assert (bare.raw_header, bare.raw_body, bare.response) == (None, None, None)
    assert EXAMPLES[7].code == 1002


def test_repr_of_invalid_url_hides_the_password():
    assert "geheim" not in repr(EXAMPLES[1])
    assert repr(EXAMPLES[1]) == "WSInvalidURL('text')"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the Upgrade header is missing"),
        ("h2c", "the Upgrade header is invalid: 'h2c'"),
        ("", "the Upgrade header is invalid: ''"),
        ("x" * 200, f"the Upgrade header is invalid: '{'x' * 200}'"),
        ("x" * 201, f"the Upgrade header is invalid: '{'x' * 200}'..."),
    ],
)
def test_header_error_makes_its_message(value, message):
    error = errors.WSInvalidHeaderError("Upgrade", value)
    assert str(error) == message
    assert (error.name, error.value) == ("Upgrade", value)


@pytest.mark.parametrize("module", ["errors", "urls"])
def test_standard_library_alone(module):
    # Whoever catches an exception should not need multidict, or an extension, for its name.
    code = (
        "import sys, types;"
        "package = types.ModuleType('picows'); package.__path__ = [sys.argv[1]];"
        "sys.modules['picows'] = package;"
        f"import picows.{module};"
        "print(sorted(n for n in sys.modules if n.startswith(('picows', 'multidict'))))"
    )
    folder = str(Path(errors.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    expected = sorted({"picows", "picows.errors", f"picows.{module}"})
    assert done.stdout.strip() == str(expected)
