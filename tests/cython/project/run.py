"""Runs the user's extension modules: an echo over loopback, and proof of the calls by vtable.

Prints one line for each thing that was shown; test_cython_door.py compares them.
"""

import asyncio
import ctypes
import gc

import face
import historic

import picows

SIZES = (0, 1, 125, 126, 65535, 65536)


def shadow(cls, name):
    """Put another function where Python looks methods up; C slots stay as they are."""

    def wrong(*args):
        raise AssertionError(f"{name} was looked up in Python")

    (namespace,) = gc.get_referents(cls.__dict__)
    namespace[name] = wrong
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))
    try:
        getattr(cls(), name)()
    except AssertionError:
        return
    raise RuntimeError("the shadow does not work")


async def echo(server_listener, client_listener, **kwargs):
    server = await picows.ws_create_server(lambda request: server_listener, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"ws://127.0.0.1:{port}/"
    transport, _ = await picows.ws_connect(lambda: client_listener, url, **kwargs)
    for size in SIZES:
        transport.send(picows.WSMsgType.BINARY, b"x" * size)
    transport.send_close(picows.WSCloseCode.OK)
    await asyncio.wait_for(transport.wait_disconnected(), 30)
    server.close()
    await server.wait_closed()


def check_echo():
    server, client = historic.Echo(), historic.Collect()
    asyncio.run(echo(server, client))
    assert [len(payload) for payload in client.payloads] == list(SIZES)
    assert set(b"".join(client.payloads)) == set(b"x")
    assert client.events == ["connected", "disconnected"]
    assert server.frames == len(SIZES) + 1
    assert isinstance(server, picows.WSListener)


def check_python_subclass():
    seen = []

    class PythonEcho(historic.Echo):
        def on_ws_frame(self, transport, frame):
            seen.append(frame.payload_size)
            super().on_ws_frame(transport, frame)

    client = historic.Collect()
    asyncio.run(echo(PythonEcho(), client))
    assert seen[: len(SIZES)] == list(SIZES)
    assert [len(payload) for payload in client.payloads] == list(SIZES)


def check_vtable():
    for cls in (historic.Echo, historic.Collect):
        shadow(cls, "on_ws_frame")
    shadow(historic.Collect, "on_ws_connected")
    check_echo()


def check_face():
    counter = face.Counter()
    face.pause(counter)
    assert counter.writing_paused
    assert face.constants() == (2, 1014)
    server = face.Counter()
    client = face.Counter()

    async def talk():
        ws_server = await picows.ws_create_server(lambda request: server, "127.0.0.1", 0)
        port = ws_server.sockets[0].getsockname()[1]
        transport, _ = await picows.ws_connect(lambda: client, f"ws://127.0.0.1:{port}/")
        for _ in range(3):
            transport.send(picows.WSMsgType.TEXT, "x")
        transport.send_close(picows.WSCloseCode.OK)
        transport.disconnect()
        await transport.wait_disconnected()
        await ws_server.shutdown()

    asyncio.run(asyncio.wait_for(talk(), 30))
    assert server.frames == 4


if __name__ == "__main__":
    # In this order: what check_vtable puts in place stays there.
    for check in (check_face, check_echo, check_python_subclass, check_vtable):
        check()
        print(check.__name__, "ok")
