"""PyPI's picows as the Autobahn TestSuite's testee: its `picows.websockets`.

Its core has frames only: messages, UTF-8 and compression are left to the program, so that there the
suite would judge the program. `picows.websockets`, in the same package, has them, and the interface
of the package `websockets`.
"""

from __future__ import annotations

from autobahn.websockets_api import Testee

from picows.websockets.asyncio.client import connect
from picows.websockets.asyncio.server import serve as start_server
from picows.websockets.exceptions import ConnectionClosed

testee = Testee(connect, start_server, ConnectionClosed)
serve, converse, ask = testee.serve, testee.converse, testee.ask
