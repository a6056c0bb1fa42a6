"""The echo client as a Cython extension: the engine calls it through the vtable, and no Python
object is made for a frame that comes or goes.

Build it beside this file, then run it against echo_server.py:

    python examples/echo_client_cython_setup.py build_ext --inplace
    cd examples && python -c "import echo_client_cython; echo_client_cython.main()" --help

It ends after --count round trips or on Ctrl-C, and prints how many it made in a second.
"""

import argparse
import asyncio
import contextlib
import signal
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter

from libc.string cimport memcmp, memcpy

from picows import ws_connect

from picows.picows cimport WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]

# The frame's header is written into the 14 bytes ahead of the payload, where the engine may also
# mask the payload in place: so the message is copied there anew before each send.
cdef enum:
    HEADER_ROOM = 14
    PAYLOAD_SIZE = 32

cdef const char* MESSAGE = b"0123456789abcdef0123456789ABCDEF"


cdef class EchoClient(WSListener):
    cdef:
        char buffer[HEADER_ROOM + PAYLOAD_SIZE]
        Py_ssize_t left
        readonly Py_ssize_t received
        readonly Py_ssize_t wrong
        object done

    def __init__(self, Py_ssize_t count):
        self.left = count
        self.received = 0
        self.wrong = 0
        self.done = asyncio.Event()

    cdef inline void send(self, WSTransport transport) except *:
        memcpy(&self.buffer[HEADER_ROOM], MESSAGE, PAYLOAD_SIZE)
        transport.send_reuse_external_buffer(
            WSMsgType.BINARY, &self.buffer[HEADER_ROOM], PAYLOAD_SIZE,
            True, False, False, False)

    cpdef on_ws_connected(self, WSTransport transport):
        self.send(transport)

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        if frame.msg_type == WSMsgType.BINARY:
            self.received += 1
            if (<Py_ssize_t>frame.payload_size != PAYLOAD_SIZE
                    or memcmp(frame.payload_ptr, MESSAGE, PAYLOAD_SIZE) != 0):
                self.wrong += 1
            if self.received == self.left:
                self.done.set()
            elif not self.done.is_set():
                self.send(transport)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    cpdef on_ws_disconnected(self, WSTransport transport):
        self.done.set()

    async def wait_done(self):
        await self.done.wait()

    def stop(self):
        self.done.set()


async def run(args):
    transport, client = await ws_connect(lambda: EchoClient(args.count), args.url)
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, client.stop)
    began = perf_counter()
    try:
        await client.wait_done()
    finally:
        seconds = perf_counter() - began
        transport.send_close(WSCloseCode.OK, b"done")
        try:
            await asyncio.wait_for(transport.wait_disconnected(), timeout=2)
        except asyncio.TimeoutError:
            transport.disconnect(graceful=False)
        print(f"{client.received} round trips, {client.wrong} of them wrong, "
              f"{client.received / seconds:,.0f} per second")


def main():
    parser = argparse.ArgumentParser(description="WebSocket echo client in Cython")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--count", type=int, default=100_000, help="end after so many echoes")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args))
