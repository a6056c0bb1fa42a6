"""MaskKeyPool: fresh keys from the system, none of them twice, not after a fork either."""

import copy
import os
import pickle
import subprocess
import sys

import pytest

from picows.wire import octets

POOL_SIZE = 4096
KEYS_IN_POOL = POOL_SIZE // 4


@pytest.fixture
def drawn(monkeypatch):
    """What os.urandom gave, made so that no four bytes come twice."""
    calls = []

    def urandom(size):
        first = 0x01020304 + sum(map(len, calls))
        calls.append(b"".join((first + i).to_bytes(4, "big") for i in range(size // 4)))
        return calls[-1]

    monkeypatch.setattr(os, "urandom", urandom)
    return calls


def test_keys_are_the_drawn_octets_each_once(drawn):
    pool = octets.MaskKeyPool()
    keys = [pool.next_key() for _ in range(3 * KEYS_IN_POOL)]
    assert [len(call) for call in drawn] == [POOL_SIZE] * 3
    assert b"".join(keys) == b"".join(drawn)
    assert len(set(keys)) == len(keys)


def test_nothing_drawn_before_the_first_key(drawn):
    pool = octets.MaskKeyPool()
    assert drawn == []
    pool.next_key()
    assert len(drawn) == 1


def test_key_zero_is_a_key(monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    pool = octets.MaskKeyPool()
    assert pool.next_key() == b"\0\0\0\0"


def test_no_random_numbers_no_key(monkeypatch):
    pool = octets.MaskKeyPool()
    with monkeypatch.context() as patched:

        def urandom(size):
            raise NotImplementedError("no source of random numbers")

        patched.setattr(os, "urandom", urandom)
        for _ in range(2):
            with pytest.raises(NotImplementedError):
                pool.next_key()
    assert len(pool.next_key()) == 4


def test_source_that_gives_too_few(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda size: b"short")
    pool = octets.MaskKeyPool()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="gave 5 bytes"):
            pool.next_key()


def test_pools_differ():
    one, other = octets.MaskKeyPool(), octets.MaskKeyPool()
    assert [one.next_key() for _ in range(8)] != [other.next_key() for _ in range(8)]


def test_no_copies():
    """A copy would give out the same keys."""
    pool = octets.MaskKeyPool()
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(pool)


FORKS = """
import os
from picows.wire import octets

drawn = 0
urandom = os.urandom

def counted(size):
    global drawn
    drawn += 1
    return urandom(size)

os.urandom = counted

def draw():
    before = drawn
    keys = b"".join(pool.next_key() for _ in range(8))
    assert drawn - before <= 1, "drawn for each key"
    return keys.hex()

def in_child(report):
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, report().encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        found = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return found

pool = octets.MaskKeyPool()
pool.next_key()
print(in_child(draw))
print(in_child(draw))
print(in_child(lambda: draw() + "\\n" + in_child(draw)))
print(draw())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_children_draw_other_keys(picows_env):
    """regressions.md 50. Parent, two children, a third and its child."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKS],
        capture_output=True,
        text=True,
        env=picows_env,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    drawn = done.stdout.split()
    assert len(drawn) == 5
    assert all(len(keys) == 64 for keys in drawn)
    assert len(set(drawn)) == 5
