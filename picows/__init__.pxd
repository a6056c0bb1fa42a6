# The public names for Cython: `from picows cimport WSListener, ...`.
from picows.aio.transport cimport WSAutoPingStrategy, WSListener, WSTransport
from picows.wire.frame cimport WSCloseCode, WSFrame, WSMsgType
