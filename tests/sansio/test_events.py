"""sansio/events.py: events behave as those of wsproto do, in all that a program can see of them."""

import copy
import dataclasses
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sansio.both import OURS, THEIRS

LIBRARIES = pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)

# Name, and arguments by position that make one with all fields said.
SAMPLES = [
    ("Request", ("example.com", "/chat?x=1", ["x-foo; a=1"], [(b"cookie", b"a=b")], ["chat"])),
    ("AcceptConnection", ("chat", [], [(b"x-a", b"b")])),
    ("RejectConnection", (403, [(b"x-a", b"b")], True)),
    ("RejectData", (b"no", False)),
    ("CloseConnection", (1000, "bye")),
    ("Message", (b"data", False, False)),
    ("TextMessage", ("text", True, False)),
    ("BytesMessage", (b"data", False, True)),
    ("Ping", (b"payload",)),
    ("Pong", (b"payload",)),
]
NAMES = [name for name, _ in SAMPLES]
REQUIRED = {
    "Request": 2,
    "AcceptConnection": 0,
    "RejectConnection": 0,
    "RejectData": 1,
    "CloseConnection": 1,
    "Message": 1,
    "TextMessage": 1,
    "BytesMessage": 1,
    "Ping": 0,
    "Pong": 0,
}


def both(name, *arguments):
    return OURS.event(name, **fields(name, arguments)), THEIRS.event(
        name, **fields(name, arguments)
    )


def fields(name, arguments):
    names = inspect.signature(getattr(THEIRS.events, name)).parameters
    return dict(zip(names, arguments, strict=False))


def test_every_event_of_theirs_is_here():
    theirs = {
        name
        for name, value in vars(THEIRS.events).items()
        if inspect.isclass(value) and issubclass(value, THEIRS.events.Event)
    }
    assert theirs == {*NAMES, "Event"}
    assert theirs <= set(OURS.events.__all__)


@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_constructor(name, arguments):
    ours, theirs = (
        inspect.signature(getattr(library.events, name)).parameters for library in (OURS, THEIRS)
    )
    assert list(ours) == list(theirs)
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert one.kind == other.kind
        if other.default is inspect.Parameter.empty or isinstance(other.default, (bool, int)):
            assert one.default == other.default
    by_place = getattr(OURS.events, name)(*arguments)
    by_name = getattr(OURS.events, name)(**fields(name, arguments))
    assert by_place == by_name
    for field, value in fields(name, arguments).items():
        assert getattr(by_place, field) == value


@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_defaults(name, arguments):
    least = arguments[: REQUIRED[name]]
    ours, theirs = both(name, *least)
    for field in theirs.__match_args__:
        assert getattr(ours, field) == getattr(theirs, field)
    if REQUIRED[name]:
        for library in (OURS, THEIRS):
            with pytest.raises(TypeError):
                library.event(name, **fields(name, arguments[: REQUIRED[name] - 1]))


@pytest.mark.parametrize("name", ["Request", "AcceptConnection", "RejectConnection"])
def test_no_list_is_shared(name):
    arguments = dict(SAMPLES)[name][: REQUIRED[name]]
    one, other = (OURS.event(name, **fields(name, arguments)) for _ in range(2))
    for field in one.__match_args__:
        if isinstance(getattr(one, field), list):
            assert getattr(one, field) is not getattr(other, field)


@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_repr(name, arguments):
    ours, theirs = both(name, *arguments)
    assert repr(ours) == repr(theirs)


@given(st.text() | st.binary(), st.booleans(), st.booleans())
def test_repr_of_any_message(data, frame_finished, message_finished):
    ours, theirs = both("Message", data, frame_finished, message_finished)
    assert repr(ours) == repr(theirs)
    assert hash(ours) == hash(theirs)


@LIBRARIES
@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_equality(library, name, arguments):
    make = getattr(library.events, name)
    event = make(*arguments)
    assert event == make(*arguments)
    assert event != "something else"
    # A difference in one field.
    for place, value in enumerate(arguments):
        other = {str: "?", bytes: b"?", int: 1001, bool: not value, list: ["?"]}[type(value)]
        assert event != make(*arguments[:place], other, *arguments[place + 1 :])


@LIBRARIES
def test_classes_are_told_apart(library):
    events = library.events
    assert events.Message("a") != events.TextMessage("a")
    assert events.Ping(b"a") != events.Pong(b"a")
    assert events.TextMessage("a") != events.BytesMessage("a")
    assert issubclass(events.TextMessage, events.Message)
    assert issubclass(events.BytesMessage, events.Message)


@LIBRARIES
@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_immutable(library, name, arguments):
    event = getattr(library.events, name)(*arguments)
    before = repr(event)
    for field in (*event.__match_args__, "something_new"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"field '{field}'"):
            setattr(event, field, 1)
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"field '{field}'"):
            delattr(event, field)
    assert repr(event) == before


@LIBRARIES
@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_hash(library, name, arguments):
    make = getattr(library.events, name)
    if any(isinstance(value, list) for value in arguments):
        with pytest.raises(TypeError, match="unhashable"):
            hash(make(*arguments))
    else:
        assert hash(make(*arguments)) == hash(make(*arguments))
        assert len({make(*arguments), make(*arguments)}) == 1


@LIBRARIES
@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_as_dataclasses(library, name, arguments):
    event = getattr(library.events, name)(*arguments)
    assert dataclasses.is_dataclass(event)
    assert [field.name for field in dataclasses.fields(event)] == list(event.__match_args__)
    assert dataclasses.asdict(event) == fields(name, arguments)
    assert dataclasses.replace(event) == event
    first = event.__match_args__[0]
    assert getattr(dataclasses.replace(event, **{first: "?"}), first) == "?"


@LIBRARIES
@pytest.mark.parametrize(("name", "arguments"), SAMPLES, ids=NAMES)
def test_copies(library, name, arguments):
    event = getattr(library.events, name)(*arguments)
    for twin in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert twin == event
        assert type(twin) is type(event)


@LIBRARIES
def test_pattern_matching(library):
    match library.events.TextMessage("a", message_finished=False):
        case library.events.TextMessage(data, _, False):
            assert data == "a"
        case _:
            raise AssertionError
    match library.events.CloseConnection(1000):
        case library.events.CloseConnection(code=code, reason=None):
            assert code == 1000
        case _:
            raise AssertionError


@LIBRARIES
def test_responses(library):
    events = library.events
    assert events.Ping(b"x").response() == events.Pong(b"x")
    assert events.Ping().response() == events.Pong()
    assert events.CloseConnection(3000, "x").response() == events.CloseConnection(3000, "x")
    assert events.CloseConnection(1005).response() == events.CloseConnection(1005)
    answering = {name for name in NAMES if hasattr(getattr(events, name), "response")}
    assert answering == {"CloseConnection", "Ping"}


@LIBRARIES
def test_message_is_generic(library):
    assert library.events.Message[str].__origin__ is library.events.Message
    assert isinstance(library.events.Message[str]("a"), library.events.Message)


def test_what_is_told_is_bool():
    message = OURS.events.Message("a", 1, 0)
    assert message.frame_finished is True
    assert message.message_finished is False
