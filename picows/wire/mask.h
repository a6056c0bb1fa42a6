/* Masking (RFC 6455 section 5.3): each byte of a payload XORed with one of the four bytes of the
   mask key.

   The key is the four bytes as they stand on the wire, loaded with memcpy: its value depends on
   the byte order of the machine, its meaning does not. Its first byte belongs to src[0].

   dst == src masks in place; otherwise the two must not overlap. Nothing outside [0, n) is read or
   written; n may be 0, with any pointers. Masking twice with one key gives back the payload. */

#ifndef PICOWS_MASK_H
#define PICOWS_MASK_H

#include <stddef.h>
#include <stdint.h>

typedef void (*picows_mask_fn)(
    unsigned char *dst, const unsigned char *src, size_t n, uint32_t key);

typedef struct {
    const char *name; /* "avx2", "sse2", "neon", "portable" */
    picows_mask_fn mask;
} picows_mask_kernel;

/* The kernels that this machine can run, the fastest first, "portable" last; behind it one whose
   name is NULL. */
const picows_mask_kernel *picows_mask_kernels(void);

#endif
