from libc.stdint cimport uint32_t
from libc.string cimport memcpy

# picows_mask and picows_utf8_feed are variables that hold the kernel chosen when
# picows.wire.octets was imported. Other modules call the kernel through them, with no wrapper
# between, link no C file of their own and need no C header.

# dst == src masks in place, otherwise the two must not overlap. `key` is the four bytes on the
# wire, loaded with memcpy: its first byte belongs to src[0]. n may be 0, with any pointers.
cdef void (*picows_mask)(unsigned char* dst, const unsigned char* src, size_t n,
                         uint32_t key) noexcept nogil

cdef inline uint32_t rotated_key(uint32_t key, size_t offset) noexcept nogil:
    """The key as it applies from payload[offset] on."""
    cdef:
        unsigned char octets[4]
        unsigned char rotated[4]
        int i
    memcpy(octets, &key, 4)
    for i in range(4):
        rotated[i] = octets[(offset + <size_t>i) & 3]
    memcpy(&key, rotated, 4)
    return key


ctypedef uint32_t picows_utf8

# 0: ok so far; -1: invalid, at the first byte that no valid text can have there, and from then on.
cdef int (*picows_utf8_feed)(picows_utf8* state, const unsigned char* p, size_t n) noexcept nogil

cdef void picows_utf8_init(picows_utf8* state) noexcept nogil
# 1 at the end of a character; 0 inside one, or failed.
cdef int picows_utf8_done(const picows_utf8* state) noexcept nogil
# One-shot: 1 when valid and complete.
cdef int picows_utf8_valid(const unsigned char* p, size_t n) noexcept nogil

# Counts the forks that led to this process.
cdef uint32_t fork_generation

cdef enum:
    MASK_KEY_POOL_SIZE = 4096


cdef class MaskKeyPool:
    # Random octets, of which the first `_used` have been given out; never given out again.
    cdef unsigned char _octets[MASK_KEY_POOL_SIZE]
    cdef size_t _used
    # The fork_generation in which they were drawn.
    cdef uint32_t _generation

    cdef int _refill(self) except -1

    # A fresh random key, any of 2**32, zero included. Raises what os.urandom raises.
    cdef inline uint32_t next(self) except? 0:
        cdef uint32_t key
        if self._used >= MASK_KEY_POOL_SIZE or self._generation != fork_generation:
            self._refill()
        # The AND changes nothing, but for misuse by two threads at once without a GIL: it keeps
        # them inside the pool.
        memcpy(&key, &self._octets[self._used & (MASK_KEY_POOL_SIZE - 4)], 4)
        self._used += 4
        return key
