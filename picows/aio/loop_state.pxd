from picows.wire.buffers cimport Block, BufferPool
from picows.aio.poller cimport Crowd
from picows.wire.octets cimport MaskKeyPool


cdef enum:
    # Frames are built in the scratch buffer; for a large one it grows up to WARM_LIMIT, a while.
    SCRATCH_SIZE = 256 * 1024
    # As long as all frames fit, it is not worth a mapping: a connection may send one CLOSE and go.
    FIRST_SCRATCH_SIZE = 16 * 1024
    # Coalesced frames leave when the next one would take the outbox past this size.
    OUTBOX_SIZE = 64 * 1024


cdef class LoopState(BufferPool):
    cdef:
        # The loop, weakly: this object is the value of a mapping from it.
        object loop_ref
        unsigned long thread_id
        # Open connections; with the last one all buffers go.
        size_t connections

        # Sending
        MaskKeyPool mask_keys
        Block scratch
        # Who works off a batch (identity only); are further complete frames waiting in it?
        void* reader
        bint gathering
        # What that connection has sent meanwhile; who owns it (identity only).
        Block outbox
        size_t outbox_size
        void* outbox_owner
        # Other connections that gather: a list, or None; how many bytes.
        list gatherers
        size_t aside_size
        # What broadcasts compress with, by parameters: a dict, or None.
        dict broadcast_deflaters

        # Connections to look at a while after they have read, those of them whose turn it is (each
        # a set, or None), and the call that does it.
        set to_look_at
        set looked_at
        object look_handle

        # When auto ping has something to do: a Deadlines, weakly, or None. It keeps connections,
        # and those the loop, which this must not.
        object deadlines_ref

        # What watches the sockets of many connections at once: a Poller, weakly, or None, likewise.
        object poller_ref
        Crowd crowd

        # The timer that lets large buffers go; were they used since it was set?
        object warm_timer
        bint warm_used
        # Receivers whose half frame lies in a block much larger than it.
        list oversized

    cdef int open_scratch(self, size_t capacity) except -1
    cdef int open_outbox(self) except -1
    cdef int connection_closed(self) except -1
    cdef object open_deadlines(self)
    cdef object open_poller(self)
    cdef int look_later(self, object connection) except -1
    cdef int do_not_look(self, object connection) except -1


cdef LoopState state_of(object loop)
