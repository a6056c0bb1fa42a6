cdef class Settings:
    cdef:
        readonly bint is_client_side
        readonly object logger
        bint disconnect_on_exception
        # An AutoPingSettings, or None.
        object auto_ping
        bint enable_auto_pong
        bint coalesce_writes
        bint transport_copies
        size_t max_frame_size
        size_t read_buffer_init_size
        bint assemble_messages
        size_t max_message_size
        size_t max_fragments
        # A PerMessageDeflate, or None.
        readonly object deflate
        # 0 is none.
        size_t max_write_buffer
        int overflow_policy
        double busy_poll
        bint kernel_timestamps
