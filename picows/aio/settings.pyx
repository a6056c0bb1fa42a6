# cython: language_level=3
"""What all connections of one entry point have in common: `Settings`, checked by parameters.py."""

__all__ = ["Settings"]


cdef class Settings:
    """The parameters of `ws_connect` or `ws_create_server`, as connections read them."""

    def __init__(
        self, *, bint is_client_side, logger, bint disconnect_on_exception, auto_ping,
        bint enable_auto_pong, bint coalesce_writes, bint transport_copies, size_t max_frame_size,
        size_t read_buffer_init_size, bint assemble_messages, size_t max_message_size,
        size_t max_fragments, deflate, size_t max_write_buffer, int overflow_policy,
        double busy_poll
    ):
        self.is_client_side = is_client_side
        self.logger = logger
        self.disconnect_on_exception = disconnect_on_exception
        # An AutoPingSettings, or None.
        self.auto_ping = auto_ping
        self.enable_auto_pong = enable_auto_pong
        self.coalesce_writes = coalesce_writes
        self.transport_copies = transport_copies
        self.max_frame_size = max_frame_size
        self.read_buffer_init_size = read_buffer_init_size
        self.assemble_messages = assemble_messages
        self.max_message_size = max_message_size
        self.max_fragments = max_fragments
        # A PerMessageDeflate, or None.
        self.deflate = deflate
        # 0 is none.
        self.max_write_buffer = max_write_buffer
        self.overflow_policy = overflow_policy
        self.busy_poll = busy_poll
