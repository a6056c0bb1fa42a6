# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The Cython door to mask.c and utf8.c, and the pool of random mask keys.

What always holds: picows_mask and picows_utf8_feed point to a kernel that this machine can run,
chosen once, while this module is imported; only tests choose another. No mask key is given out
twice, not in a parent and its children either.

The module needs no GIL: the kernels keep no state but the caller's, the two pointers are written
during the import, and fork_generation in a child that has one thread. A pool or a validator
belongs to one thread, that of its event loop or connection; used by two at once it may repeat keys
or misjudge, but stays inside its memory.

The Python functions are for tests and tools; the library itself calls the C names in octets.pxd.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, strcmp


cdef extern from "mask.h":
    ctypedef void (*picows_mask_fn)(
        unsigned char*, const unsigned char*, size_t, uint32_t) noexcept nogil

    ctypedef struct picows_mask_kernel:
        const char* name
        picows_mask_fn mask

    const picows_mask_kernel* picows_mask_kernels() noexcept nogil


cdef extern from "utf8.h":
    ctypedef int (*picows_utf8_fn)(uint32_t*, const unsigned char*, size_t) noexcept nogil

    ctypedef struct picows_utf8_kernel:
        const char* name
        picows_utf8_fn feed

    const picows_utf8_kernel* picows_utf8_kernels() noexcept nogil
    void c_utf8_init "picows_utf8_init"(uint32_t*) noexcept nogil
    int c_utf8_done "picows_utf8_done"(const uint32_t*) noexcept nogil


cdef const picows_mask_kernel* _mask_kernel = picows_mask_kernels()
cdef const picows_utf8_kernel* _utf8_kernel = picows_utf8_kernels()
picows_mask = _mask_kernel.mask
picows_utf8_feed = _utf8_kernel.feed


cdef void picows_utf8_init(picows_utf8* state) noexcept nogil:
    c_utf8_init(state)


cdef int picows_utf8_done(const picows_utf8* state) noexcept nogil:
    return c_utf8_done(state)


cdef int picows_utf8_valid(const unsigned char* p, size_t n) noexcept nogil:
    cdef picows_utf8 state
    c_utf8_init(&state)
    return picows_utf8_feed(&state, p, n) == 0 and c_utf8_done(&state)


fork_generation = 0


def _forked():
    global fork_generation
    fork_generation += 1


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef class MaskKeyPool:
    """Random mask keys, drawn from the system in bulk. One per event loop.

    RFC 6455 section 5.3: a fresh key for each frame, which nobody can predict.
    """

    def __cinit__(self):
        self._used = MASK_KEY_POOL_SIZE

    cdef int _refill(self) except -1:
        cdef bytes octets = os.urandom(MASK_KEY_POOL_SIZE)
        if len(octets) != MASK_KEY_POOL_SIZE:
            raise RuntimeError(f"os.urandom({MASK_KEY_POOL_SIZE}) gave {len(octets)} bytes")
        memcpy(self._octets, PyBytes_AS_STRING(octets), MASK_KEY_POOL_SIZE)
        self._used = 0
        self._generation = fork_generation
        return 0

    def next_key(self):
        """The next key, as its four bytes on the wire."""
        cdef uint32_t key = self.next()
        return PyBytes_FromStringAndSize(<char*>&key, 4)


cdef uint32_t _key(bytes key) except? 0:
    cdef uint32_t word
    if len(key) != 4:
        raise ValueError(f"a mask key has 4 bytes, not {len(key)}")
    memcpy(&word, PyBytes_AS_STRING(key), 4)
    return word


def mask(data, bytes key not None):
    """A copy of `data` (bytes-like, contiguous), masked or unmasked with the 4 bytes of `key`."""
    cdef uint32_t word = _key(key)
    cdef Py_buffer source
    cdef bytes masked
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        masked = PyBytes_FromStringAndSize(NULL, source.len)
        picows_mask(<unsigned char*>PyBytes_AS_STRING(masked),
                    <const unsigned char*>source.buf, source.len, word)
    finally:
        PyBuffer_Release(&source)
    return masked


def mask_into(buffer, Py_ssize_t offset, bytes key not None, source=None):
    """Mask the bytes of `buffer` (writable, contiguous) from `offset` to its end, in place.

    With a `source`: mask that one into `buffer` at `offset`; the two must not overlap.
    """
    cdef uint32_t word = _key(key)
    cdef Py_buffer target, other
    cdef unsigned char* dst
    PyObject_GetBuffer(buffer, &target, PyBUF_WRITABLE)
    try:
        if not 0 <= offset <= target.len:
            raise ValueError(f"offset {offset} lies outside the {target.len} bytes of the buffer")
        dst = <unsigned char*>target.buf + offset
        if source is None:
            picows_mask(dst, dst, target.len - offset, word)
            return
        PyObject_GetBuffer(source, &other, PyBUF_SIMPLE)
        try:
            if other.len > target.len - offset:
                raise ValueError(
                    f"{other.len} bytes do not fit behind offset {offset} of {target.len}")
            picows_mask(dst, <const unsigned char*>other.buf, other.len, word)
        finally:
            PyBuffer_Release(&other)
    finally:
        PyBuffer_Release(&target)


def mask_kernels():
    """The names of the masking kernels that this machine can run, the fastest first."""
    cdef const picows_mask_kernel* kernel = picows_mask_kernels()
    names = []
    while kernel.name != NULL:
        names.append(kernel.name.decode())
        kernel += 1
    return tuple(names)


def mask_kernel():
    """The name of the masking kernel in use: "avx2", "sse2", "neon" or "portable"."""
    return _mask_kernel.name.decode()


def use_mask_kernel(str name not None):
    """Use the masking kernel of that name from now on, in the whole process.

    For tests, while no other thread is at work. Raises ValueError for one that is not there.
    """
    global _mask_kernel, picows_mask
    cdef const picows_mask_kernel* kernel = picows_mask_kernels()
    cdef bytes wanted = name.encode()
    while kernel.name != NULL:
        if strcmp(kernel.name, wanted) == 0:
            _mask_kernel = kernel
            picows_mask = kernel.mask
            return
        kernel += 1
    raise ValueError(f"no masking kernel {name!r} here; there are {', '.join(mask_kernels())}")


def utf8_kernels():
    """The names of the UTF-8 kernels that this machine can run, the fastest first."""
    cdef const picows_utf8_kernel* kernel = picows_utf8_kernels()
    names = []
    while kernel.name != NULL:
        names.append(kernel.name.decode())
        kernel += 1
    return tuple(names)


def utf8_kernel():
    """The name of the UTF-8 kernel in use: "avx2", "sse2", "neon" or "portable"."""
    return _utf8_kernel.name.decode()


def use_utf8_kernel(str name not None):
    """Use the UTF-8 kernel of that name from now on, in the whole process.

    For tests, while no other thread is at work. Raises ValueError for one that is not there.
    """
    global _utf8_kernel, picows_utf8_feed
    cdef const picows_utf8_kernel* kernel = picows_utf8_kernels()
    cdef bytes wanted = name.encode()
    while kernel.name != NULL:
        if strcmp(kernel.name, wanted) == 0:
            _utf8_kernel = kernel
            picows_utf8_feed = kernel.feed
            return
        kernel += 1
    raise ValueError(f"no UTF-8 kernel {name!r} here; there are {', '.join(utf8_kernels())}")


def utf8_valid(data):
    """Whether `data` (bytes-like, contiguous) is UTF-8 text, complete to the last character."""
    cdef Py_buffer source
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        return picows_utf8_valid(<const unsigned char*>source.buf, source.len) == 1
    finally:
        PyBuffer_Release(&source)


cdef class Utf8Validator:
    """Judges UTF-8 text that arrives in pieces, cut anywhere."""

    cdef picows_utf8 _state

    def __cinit__(self):
        picows_utf8_init(&self._state)

    def feed(self, data):
        """Whether all that was fed so far can be the beginning of valid text."""
        cdef Py_buffer source
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            return picows_utf8_feed(&self._state, <const unsigned char*>source.buf, source.len) == 0
        finally:
            PyBuffer_Release(&source)

    @property
    def complete(self):
        """Whether it is valid text as it stands, with no character cut off."""
        return picows_utf8_done(&self._state) == 1
