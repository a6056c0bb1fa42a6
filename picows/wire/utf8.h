/* UTF-8 validation (RFC 3629) of text that is fed in pieces, cut anywhere.

   A feed fails as soon as the bytes so far cannot be the beginning of valid text: at E0 80, ED A0,
   F0 80, F4 90, at C0, C1 and F5..FF, without waiting for the rest of the character (RFC 6455
   section 8.1). Failed once, it stays failed. Nothing outside [0, n) is read; n may be 0, with any
   pointer. */

#ifndef PICOWS_UTF8_H
#define PICOWS_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory is a validator that has failed: picows_utf8_init first. */
typedef uint32_t picows_utf8;

/* 0: ok so far. -1: invalid. */
typedef int (*picows_utf8_fn)(picows_utf8 *state, const unsigned char *p, size_t n);

typedef struct {
    const char *name; /* "avx2", "sse2", "neon", "portable" */
    picows_utf8_fn feed;
} picows_utf8_kernel;

/* The kernels that this machine can run, the fastest first, "portable" last; behind it one whose
   name is NULL. */
const picows_utf8_kernel *picows_utf8_kernels(void);

void picows_utf8_init(picows_utf8 *state);

/* 1 at the end of a character; 0 inside one, or failed. */
int picows_utf8_done(const picows_utf8 *state);

#endif
