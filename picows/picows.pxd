# The historic path: `from picows.picows cimport WSListener, ...`.
from picows.aio.transport cimport WSAutoPingStrategy, WSListener, WSTransport
from picows.wire.frame cimport WSCloseCode, WSFrame, WSMsgType
