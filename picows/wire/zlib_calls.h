/* The zlib that setup.py chose (PICOWS_ZLIB), behind one set of names: PICOWS_Z(name) is what that
 * library calls its function. Without any there is only what lets the module compile, and
 * PICOWS_HAVE_ZLIB is 0: then Python's zlib module does the work.
 */
#ifndef PICOWS_ZLIB_CALLS_H
#define PICOWS_ZLIB_CALLS_H

#include <stddef.h>

#if defined(PICOWS_ZLIB_NG)

#include <zlib-ng.h>
#define PICOWS_HAVE_ZLIB 1
#define PICOWS_ZLIB_NAME "zlib-ng"
#define PICOWS_Z(name) zng_##name
typedef zng_stream z_stream;
typedef uint8_t Bytef;
typedef uint32_t uInt;
typedef unsigned long uLong;

#elif !defined(PICOWS_NO_ZLIB)

#define ZLIB_CONST
#include <zlib.h>
#define PICOWS_HAVE_ZLIB 1
#define PICOWS_ZLIB_NAME "zlib"
#define PICOWS_Z(name) name

#else

#define PICOWS_HAVE_ZLIB 0
#define PICOWS_ZLIB_NAME "python"
#define PICOWS_Z(name) name
#define Z_OK 0
#define Z_STREAM_END 1
#define Z_BUF_ERROR (-5)
#define Z_MEM_ERROR (-4)
#define Z_SYNC_FLUSH 2
#define Z_DEFLATED 8
#define Z_DEFAULT_STRATEGY 0
typedef unsigned char Bytef;
typedef unsigned int uInt;
typedef unsigned long uLong;
typedef struct {
    const Bytef *next_in;
    uInt avail_in;
    Bytef *next_out;
    uInt avail_out;
    int data_type;
} z_stream;
static inline int inflateInit2(z_stream *z, int bits) { (void)z, (void)bits; return Z_MEM_ERROR; }
static inline int inflate(z_stream *z, int flush) { (void)z, (void)flush; return Z_MEM_ERROR; }
static inline int inflateReset(z_stream *z) { (void)z; return Z_MEM_ERROR; }
static inline int inflateEnd(z_stream *z) { (void)z; return Z_OK; }
static inline int inflateGetDictionary(z_stream *z, Bytef *d, uInt *n) { (void)z, (void)d, (void)n; return Z_MEM_ERROR; }
static inline int inflateSetDictionary(z_stream *z, const Bytef *d, uInt n) { (void)z, (void)d, (void)n; return Z_MEM_ERROR; }
static inline int deflateInit2(z_stream *z, int level, int method, int bits, int memory, int strategy)
{
    (void)z, (void)level, (void)method, (void)bits, (void)memory, (void)strategy;
    return Z_MEM_ERROR;
}
static inline int deflate(z_stream *z, int flush) { (void)z, (void)flush; return Z_MEM_ERROR; }
static inline int deflateReset(z_stream *z) { (void)z; return Z_MEM_ERROR; }
static inline int deflateEnd(z_stream *z) { (void)z; return Z_OK; }
static inline uLong deflateBound(z_stream *z, uLong n) { (void)z; return n; }

#endif
#endif
