"""The suite's own machinery: each check of loops.py and conftest.py can fail, and the raw peer
speaks RFC 6455.
"""

import asyncio
import socket
import ssl
import struct
from pathlib import Path

import pytest

import loops
import picows
from raw_peer import (
    BINARY,
    PING,
    TEXT,
    RawFrame,
    RawServer,
    accept_key,
    encode_frame,
    field,
    in_thread,
    raw_connect,
)

KINDS = pytest.mark.parametrize("kind", loops.LOOP_KINDS)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(loops, "SETTLE_TIME", 0.05)


def failure_of(function, kind="asyncio", limit=30):
    with pytest.raises(pytest.fail.Exception) as caught:
        loops.Run(kind, limit).run(function)
    return str(caught.value)


@KINDS
def test_clean_coroutine_passes(kind):
    seen = []

    async def clean():
        assert asyncio.get_running_loop().get_debug() == (kind == "asyncio-debug")
        await asyncio.to_thread(seen.append, 1)

    loops.Run(kind).run(clean)
    assert seen == [1]


@KINDS
def test_task_left(kind):
    kept = []

    async def leaves_task():
        kept.append(asyncio.ensure_future(asyncio.sleep(60)))

    assert "tasks left" in failure_of(leaves_task, kind)


@pytest.mark.parametrize("kind", ["asyncio", "asyncio-debug"])
def test_timer_left(kind):
    async def leaves_timer():
        asyncio.get_running_loop().call_later(60, print)

    assert "timers left" in failure_of(leaves_timer, kind)


def test_cancelled_timer_is_none():
    async def cancels_timer():
        asyncio.get_running_loop().call_later(60, print).cancel()

    loops.Run("asyncio").run(cancels_timer)


@KINDS
def test_socket_left(kind):
    kept = []

    async def leaves_socket():
        kept.append(socket.socket())

    assert "files left open" in failure_of(leaves_socket, kind)
    kept.pop().close()


@KINDS
def test_error_in_a_callback(kind):
    async def breaks_callback():
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.sleep(0.01)

    assert "exception handler was called" in failure_of(breaks_callback, kind)


@KINDS
def test_time_limit_shows_where_it_hangs(kind):
    async def hangs_here():
        await asyncio.Event().wait()

    message = failure_of(hangs_here, kind, limit=0.05)
    assert "not done within 0.05 s" in message
    assert "hangs_here" in message


@KINDS
def test_own_exception_comes_through(kind):
    async def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loops.Run(kind).run(fails)


@pytest.mark.net(tls=(True,), aiofastnet=(False,))
async def test_net_runs_on_the_loop_that_it_names(net):
    running = type(asyncio.get_running_loop()).__module__
    assert running.startswith("uvloop") == (net.loop_kind == "uvloop")
    assert net.tls
    assert net.use_aiofastnet is False


async def test_net_connects_and_leaves_nothing(net):
    """In all combinations: an echo, a CLOSE, the end; conftest.py looks at what is left."""

    class Echo(picows.WSListener):
        def on_ws_frame(self, transport, frame):
            if frame.msg_type == picows.WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_bytes())

    class Ask(picows.WSListener):
        def on_ws_connected(self, transport):
            self.answers = []
            transport.send(picows.WSMsgType.TEXT, "question")

        def on_ws_frame(self, transport, frame):
            if frame.msg_type == picows.WSMsgType.CLOSE:
                transport.disconnect()
            else:
                self.answers.append(frame.get_payload_as_utf8_text())
                transport.send_close(picows.WSCloseCode.OK)

    server = await net.serve(lambda request: Echo())
    transport, listener = await net.connect(Ask, server)
    await transport.wait_disconnected()
    await server.shutdown()
    assert transport.is_secure == net.tls
    assert listener.answers == ["question"]


def test_skip_fails_in_ci(pytester, monkeypatch):
    """In a subprocess, with our conftest."""
    folder = Path(loops.__file__).parent
    pytester.makeconftest((folder / "conftest.py").read_text())
    monkeypatch.setenv("PYTHONPATH", str(folder))
    pytester.makepyfile(
        test_one="""
        import pytest
        def test_skipped():
            pytest.skip("no tool")
        @pytest.mark.xfail(strict=True)
        def test_xfails():
            assert False
        @pytest.mark.skip(reason="never")
        def test_marked():
            pass
        """,
        test_two="import pytest; pytest.importorskip('no_such_module')",
    )
    monkeypatch.delenv("CI", raising=False)
    pytester.runpytest_subprocess("--continue-on-collection-errors").assert_outcomes(
        skipped=3, xfailed=1
    )
    monkeypatch.setenv("CI", "1")
    result = pytester.runpytest_subprocess("--continue-on-collection-errors")
    result.assert_outcomes(failed=1, xfailed=1, errors=2)
    result.stdout.fnmatch_lines(["*CI is set, where a skipped test fails*no tool*"])


# -- the raw peer ----------------------------------------------------------------------------------


def test_frames_of_rfc_6455_section_5_7():
    assert encode_frame(TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    mask = bytes.fromhex("37fa213d")
    assert encode_frame(TEXT, b"Hello", mask=mask) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert encode_frame(BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert encode_frame(BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")
    assert encode_frame(
        PING, fin=False, rsv=4, length=5, length_bits=64
    ) == b"\x49\x7f" + struct.pack("!Q", 5)


def test_accept_key_of_rfc_6455_section_1_3():
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("tls", [False, True])
def test_raw_server_and_client(tls, certificates):
    def script(peer):
        peer.accept_upgrade(b"X-More: yes", then=encode_frame(TEXT, b"first"))
        frame = peer.recv_frame()
        assert frame == RawFrame(TEXT, b"x" * 70000, masked=True)
        peer.send_frame(BINARY)
        assert peer.recv_all() == b""

    with RawServer(script, certificates.server if tls else None) as server:
        with raw_connect(server.port, certificates.client if tls else None) as peer:
            head = peer.request_upgrade()
            assert field(head, b"x-more") == b"yes"
            assert peer.recv_frame() == RawFrame(TEXT, b"first")
            peer.send_frame(TEXT, b"x" * 70000, mask=b"abcd")
            assert peer.recv_frame() == RawFrame(BINARY)


def test_raw_server_raises_what_its_script_raised():
    def script(peer):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), RawServer(script) as server:
        raw_connect(server.port).close()


@KINDS
def test_raw_server_beside_a_loop(kind):
    def script(peer):
        assert peer.recv_exactly(2) == b"hi"
        peer.reset()

    async def talk():
        async with RawServer(script) as server:
            peer = await in_thread(raw_connect, server.port)
            peer.send(b"hi")
            assert await in_thread(peer.recv_all) == b""
            peer.close()

    loops.Run(kind).run(talk)


def test_certificates_hold_for_this_machine_only(certificates):
    with RawServer(lambda peer: peer.recv_all(), certificates.issue("example.org")) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            raw_connect(server.port, certificates.client)
    assert isinstance(server.tls_failure, ssl.SSLError)
