# cython: language_level=3, boundscheck=False, wraparound=False
"""What the connections of one event loop share: read buffers, mask keys, the room in which frames
are built.

Always holds: one LoopState a loop, used by the loop's thread alone; without connections it owns no
buffer and no timer.
"""

from threading import Lock
from weakref import WeakKeyDictionary, ref

from cpython.pythread cimport PyThread_get_thread_ident

from picows.aio.deadlines import Deadlines
from picows.aio.poller import Crowd, Poller
from picows.wire.buffers cimport BufferPool, new_block
from picows.wire.octets cimport MaskKeyPool
from picows.wire.receiver cimport Receiver

# Seconds that large buffers stay after their last use.
WARM_TIME = 1.0

# Seconds between a read and the look behind it; how many connections are looked at in a row.
LOOK_INTERVAL = 1.0
LOOKS = 100

cdef object _states = WeakKeyDictionary()
cdef object _states_lock = Lock()


cdef LoopState state_of(object loop):
    """The state of `loop`, which is running in this thread."""
    cdef LoopState state
    with _states_lock:
        state = _states.get(loop)
        if state is None:
            # The timer of a loop that was closed too early would keep it for ever.
            for closed in [each for each in _states if each.is_closed()]:
                del _states[closed]
            state = LoopState.__new__(LoopState)
            state.loop_ref = ref(loop)
            state.reads_handshakes = True
            state.mask_keys = MaskKeyPool()
            state.crowd = Crowd(state.loop_ref)
            _states[loop] = state
    # A loop may be run by one thread now and by another one later.
    state.thread_id = PyThread_get_thread_ident()
    return state


cdef class LoopState(BufferPool):

    cdef int open_scratch(self, size_t capacity) except -1:
        """Make sure that the scratch buffer holds `capacity` bytes."""
        if self.scratch is None or self.scratch.capacity < capacity:
            if capacity <= FIRST_SCRATCH_SIZE:
                self.scratch = new_block(FIRST_SCRATCH_SIZE)
            else:
                self.scratch = new_block(max(capacity, <size_t>SCRATCH_SIZE))
        if capacity > SCRATCH_SIZE:
            self.warm_kept()
        return 0

    cdef int open_outbox(self) except -1:
        self.outbox = new_block(OUTBOX_SIZE)
        return 0

    cdef int connection_closed(self) except -1:
        self.connections -= 1
        if self.connections == 0:
            if not self.shared_busy:
                self.close_shared()
            self.warm = None
            self.spare_body = None
            self.scratch = None
            if self.outbox_owner == NULL:
                self.outbox = None
            self.oversized = None
            self.broadcast_deflaters = None
            if self.warm_timer is not None:
                self.warm_timer.cancel()
                self.warm_timer = None
        return 0

    cdef int warm_kept(self) except -1:
        """A large buffer is kept: look after WARM_TIME whether it still serves."""
        self.warm_used = True
        if self.warm_timer is None:
            loop = self.loop_ref()
            if loop is not None and not loop.is_closed():
                self.warm_timer = loop.call_later(WARM_TIME, self._drop_warm)
        return 0

    cdef int block_oversized(self, object receiver) except -1:
        if self.oversized is None:
            self.oversized = []
        self.oversized.append(receiver)
        return self.warm_kept()

    cdef object open_deadlines(self):
        deadlines = None if self.deadlines_ref is None else self.deadlines_ref()
        if deadlines is None:
            deadlines = Deadlines(self.loop_ref())
            self.deadlines_ref = ref(deadlines)
        return deadlines

    cdef object open_poller(self):
        poller = None if self.poller_ref is None else self.poller_ref()
        if poller is None:
            poller = Poller(self.loop_ref())
            self.poller_ref = ref(poller)
        return poller

    cdef int look_later(self, object connection) except -1:
        """Call `connection._look` within LOOK_INTERVAL. One timer does for all connections."""
        if self.to_look_at is None:
            self.to_look_at = set()
        self.to_look_at.add(connection)
        if self.look_handle is None:
            self.look_handle = self.loop_ref().call_later(LOOK_INTERVAL, self._look)
        return 0

    cdef int do_not_look(self, object connection) except -1:
        if self.to_look_at is not None:
            self.to_look_at.discard(connection)
        if self.looked_at is not None:
            self.looked_at.discard(connection)
        if not (self.to_look_at or self.looked_at) and self.look_handle is not None:
            self.look_handle.cancel()
            self.look_handle = None
        return 0

    def _look(self):
        cdef int turns = LOOKS
        self.look_handle = None
        if not self.looked_at:
            self.looked_at = self.to_look_at
            self.to_look_at = None
        try:
            while self.looked_at and turns:
                turns -= 1
                self.looked_at.pop()._look()
        finally:
            if self.looked_at:
                # Others come first.
                self.look_handle = self.loop_ref().call_soon(self._look)
            elif self.to_look_at:
                self.look_handle = self.loop_ref().call_later(LOOK_INTERVAL, self._look)

    def _drop_warm(self):
        cdef Receiver receiver
        receivers = self.oversized
        self.warm_timer = None
        self.oversized = None
        if receivers is not None:
            for receiver in receivers:
                receiver.shrink()
        if self.warm_used:
            self.warm_used = False
            self.warm_timer = self.loop_ref().call_later(WARM_TIME, self._drop_warm)
            return
        self.warm = None
        if self.scratch is not None and self.scratch.capacity > SCRATCH_SIZE:
            self.scratch = None
