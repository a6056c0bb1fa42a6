"""ws_connect ended while it looks a name up, and while TCP does not answer (lines 7 and 8); what is
behind that is in test_connect.py. That no socket, task or timer is left is checked behind every
test (loops.py).
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Any

import pytest
from aio.traffic import Recorder, full_queue, silent_port

import loops
from raw_peer import RawPeer, in_thread

# Nothing has to be done within it.
SHORT = 0.1
ENDINGS = pytest.mark.parametrize("ending", ["cancelled", "deadline"])


async def end(connecting: Any, ending: str, reached: asyncio.Event | None) -> None:
    """Run it to its end: cancelled when `reached` is set, or by its own deadline."""
    task = asyncio.ensure_future(connecting)
    if ending == "cancelled":
        if reached is not None:
            await reached.wait()
        else:
            await asyncio.sleep(SHORT)
        assert not task.done()
        task.cancel()
    done, _ = await asyncio.wait([task], timeout=5 * loops.TIME_FACTOR)
    if not done:
        task.cancel()
        pytest.fail("it does not end")
    if ending == "cancelled":
        assert task.cancelled()
    else:
        assert isinstance(task.exception(), asyncio.TimeoutError)


def timeout_of(ending: str) -> float | None:
    return SHORT if ending == "deadline" else None


class SlowNames:
    """A resolver that has been asked, and does not answer before it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = asyncio.Event()
        self.let_go = threading.Event()
        loop = asyncio.get_running_loop()
        getaddrinfo = socket.getaddrinfo

        def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "slow.example":
                return getaddrinfo(host, *args, **kwargs)
            loop.call_soon_threadsafe(self.asked.set)
            self.let_go.wait(20)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

        monkeypatch.setattr(socket, "getaddrinfo", slow)


@ENDINGS
@pytest.mark.net(loops=("asyncio", "asyncio-debug"))
async def test_while_a_name_is_looked_up(
    net: Any, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop asks the system by itself, where nothing can be put in between."""
    names = SlowNames(monkeypatch)
    scheme = "wss" if net.tls else "ws"
    try:
        connecting = net.connect(
            Recorder, f"{scheme}://slow.example/", websocket_handshake_timeout=timeout_of(ending)
        )
        await end(connecting, ending, names.asked)
        assert names.asked.is_set()
    finally:
        # The thread that was asked ends as well, or the loop's executor would wait for it.
        names.let_go.set()


@ENDINGS
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse, or wait otherwise")
async def test_while_tcp_does_not_answer(net: Any, ending: str) -> None:
    with silent_port() as port:
        connecting = net.connect(
            Recorder, net.url(port), websocket_handshake_timeout=timeout_of(ending)
        )
        await end(connecting, ending, None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse, or wait otherwise")
@pytest.mark.net(tls=(False,))
async def test_tcp_refuses_later(net: Any) -> None:
    """The SYN is sent again a second later, and nobody listens any more."""
    with full_queue() as (listening, _):
        url = net.url(listening.getsockname()[1])
        connecting = asyncio.ensure_future(net.connect(Recorder, url))
        await asyncio.sleep(SHORT)
        assert not connecting.done()
        listening.close()
        # Of connecting, not of the first write.
        said = None if net.use_aiofastnet is False else "Connect call failed"
        with pytest.raises(ConnectionRefusedError, match=said):
            await connecting


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse, or wait otherwise")
@pytest.mark.net(tls=(False,))
async def test_tcp_answers_later(net: Any) -> None:
    def accept(listening: socket.socket) -> RawPeer:
        listening.settimeout(10)
        while True:
            peer = RawPeer(listening.accept()[0])
            try:
                peer.accept_upgrade()
            except (ConnectionError, EOFError):
                peer.close()  # one of the queue
            else:
                return peer

    with full_queue() as (listening, queue):
        url = net.url(listening.getsockname()[1])
        connecting = asyncio.ensure_future(net.connect(Recorder, url))
        await asyncio.sleep(SHORT)
        assert not connecting.done()
        for waiting in queue:
            waiting.close()
        peer = await in_thread(accept, listening)
        transport, _ = await connecting
        transport.disconnect()
        await transport.wait_disconnected()
        peer.close()
