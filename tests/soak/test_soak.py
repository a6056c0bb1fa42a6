"""The soak test itself: a few seconds of it, and that each of its checks can fail."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from soak import accounts as accounts_module
from soak.accounts import Accounts, Deliberate, LogHandler
from soak.listeners import Echo
from soak.messages import HEAD, LARGEST, SIZES, mistake_in, payload_of
from soak.quiet import leftovers, memory_figures, objects_of_ours
from soak.run import ALLOWED_GROWTH, Run

import loops

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the soak test reads /proc")

RUN = Path(__file__).with_name("run.py")


@pytest.mark.time_limit(300)
def test_a_few_seconds_of_it(tmp_path: Path, picows_env: dict[str, str]) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, RUN, "--seconds", "6", "--connections", "60", "--json", figures]
    done = subprocess.run(
        command, env=picows_env, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    both = json.loads(figures.read_text())["loops"]
    assert both.keys() == {"asyncio", "uvloop"}
    for loop in both.values():
        assert loop["faults"] == 0
        assert len(loop["memory"]) == 2
        for name in (
            "connections of clients",
            "connections of servers",
            "frames received",
            "messages received by raw clients",
            "messages received by raw servers",
            "messages sent",
            "peers given up by auto ping",
            "sessions of ours, complete",
            "sessions of raw clients, complete",
        ):
            assert loop["counts"].get(name, 0) > 0, name


# -- its checks ------------------------------------------------------------------------------------


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(accounts_module, "say", lambda **message: found.append(message["fault"]))
    return found


def test_every_message_is_checked() -> None:
    sizes = {len(payload_of(1, number)) for number in range(20_000)}
    assert min(sizes) == 0
    assert 1024 * 1024 < max(sizes) < LARGEST
    assert sum(share for share, *_ in SIZES) == 4096
    for number in range(200):
        payload = payload_of(1, number)
        assert mistake_in(payload, 1, number) is None
        assert mistake_in(memoryview(payload), 1, number) is None
        if payload:
            broken = bytearray(payload)
            broken[-1] ^= 1
            assert mistake_in(bytes(broken), 1, number) is not None
            assert mistake_in(payload[:-1], 1, number) is not None
        assert mistake_in(payload + b"\0", 1, number) is not None
    long = [n for n in range(200) if len(payload_of(1, n)) > HEAD.size][:2]
    assert f"says it is {long[1]}, checksum right" in str(
        mistake_in(payload_of(1, long[1]), 1, long[0])
    )


class Transport:
    """What a Watched asks a transport for."""

    is_client_side = False
    is_disconnected = False
    close_handshake = None
    underlying_transport = None

    def get_extra_info(self, name: str) -> object:
        return socket.socket()

    def pause_reading(self) -> None:
        pass


@pytest.fixture
def echo(faults: list[str]) -> Echo:
    listener = Echo(Accounts(), "test", 1, end=None, is_gentle=False)
    listener.random.random = lambda: 1.0  # type: ignore[method-assign]
    return listener


def test_callbacks_out_of_turn_are_faults(faults: list[str], echo: Echo) -> None:
    transport = Transport()
    echo.on_ws_connected(transport)
    assert faults == []
    echo.on_ws_connected(transport)
    echo.on_ws_disconnected(transport)
    echo.on_ws_disconnected(transport)
    echo.pause_writing()
    echo.resume_writing()
    said = [fault.split(": ")[1].split(" ")[0] for fault in faults]
    assert said == ["on_ws_connected", "on_ws_disconnected", "pause_writing", "resume_writing"]


def test_frames_out_of_turn_are_faults(
    faults: list[str], echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo, "_react", lambda transport, frame: None)
    transport = Transport()
    echo.on_ws_frame(transport, None)
    echo.on_ws_connected(transport)
    echo.on_ws_frame(transport, None)
    assert len(faults) == 1
    echo.hold("a test")
    echo.on_ws_frame(transport, None)
    assert len(faults) == 2
    echo.reasons.clear()
    echo.ended = True
    echo.on_ws_frame(transport, None)
    assert len(faults) == 3


def test_a_kept_frame_that_changes_is_a_fault(faults: list[str]) -> None:
    accounts = Accounts()
    kept = bytearray(b"kept")
    accounts.keep(memoryview(kept))
    accounts.keep(memoryview(b"the same"))
    kept[0] ^= 1
    accounts.look_at_all_kept()
    assert len(faults) == 1


def test_what_reaches_the_loop_or_the_log_is_a_fault(faults: list[str]) -> None:
    accounts = Accounts()
    loop = asyncio.new_event_loop()
    loop.close()
    accounts.loop_error(loop, {"message": "boom", "exception": OSError()})
    assert len(faults) == 1
    accounts.loop_error(loop, {"message": "SSL handshake failed", "transport": object()})
    assert len(faults) == 2

    handler = LogHandler(accounts)
    logger = logging.Logger("picows.server")
    logger.addHandler(handler)
    for exc, expected in ((Deliberate(), 2), (ValueError(), 3)):
        logger.error("exception in on_ws_frame", exc_info=exc)
        assert len(faults) == expected
    logger.warning("anything")
    assert len(faults) == 4


async def test_what_is_left_is_found() -> None:
    loop = asyncio.get_running_loop()
    before = loops.open_files(), objects_of_ours(), asyncio.all_tasks()
    assert leftovers(loop, *before) == []
    task = asyncio.ensure_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    assert [each.split(":")[0] for each in leftovers(loop, *before)] == ["tasks", "timers"]
    task.cancel()
    await asyncio.wait([task])
    with socket.socket():
        assert [each.split(":")[0] for each in leftovers(loop, *before)] == ["files"]
    listener = Echo(Accounts(), "test", 1, end=None, is_gentle=False)
    assert len(leftovers(loop, *before)) == 2
    del listener
    assert leftovers(loop, *before) == []


def test_a_session_may_end_early_only_when_its_server_is_away() -> None:
    run = Run("asyncio", argparse.Namespace(seed=1), "")
    away = [("one", 10.0, 12.0)]
    run.judge([("one", 5.0, 10.5, ""), ("one", 11.5, 13.0, ""), ("one", 5.0, 15.0, "")], away)
    assert run.faults == 0
    run.judge([("two", 5.0, 10.5, ""), ("one", 5.0, 9.0, ""), ("one", 13.0, 15.0, "")], away)
    assert run.faults == 3


@pytest.mark.skipif("PICOWS_SANITIZE" in os.environ, reason="ASan keeps what was freed")
def test_memory_that_grows_is_a_fault() -> None:
    first = memory_figures()
    assert first.keys() == ALLOWED_GROWTH.keys()
    for name, allowed in ALLOWED_GROWTH.items():
        run = Run("asyncio", argparse.Namespace(seed=1), "")
        run.memory = [first, first, {**first, name: first[name] + allowed}]
        run.judge_memory()
        assert run.faults == 0
        run.memory.append({**first, name: first[name] + allowed + 1})
        run.judge_memory()
        assert run.faults == 1
