/* The masking kernels. What they promise stands in mask.h.

   Each kernel reads the last vector of the payload before it writes anything, and stores it last.
   So the vectors before may overlap it, in place too, and no length needs a loop over single bytes
   but those of 1, 2 and 3.

   A payload starts 2 to 14 bytes into its buffer, so loads and stores are unaligned; AVX2 aligns
   its stores in long payloads, where one of 32 bytes that lies on two cache lines costs double.
   No streaming stores: send() or the parser reads these bytes a moment later. AVX2 is enabled for
   single functions, since one binary has to run on processors without it; MSVC has no such
   attribute and gets SSE2. */

#include "mask.h"

#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#  define PICOWS_SSE2 1
#  if defined(__GNUC__)
#    define PICOWS_AVX2 1
#    include <immintrin.h>
#    define TARGET_AVX2 __attribute__((target("avx2")))
#  else
#    include <emmintrin.h>
#  endif
#elif (defined(__aarch64__) && !defined(__AARCH64EB__)) || defined(_M_ARM64)
#  define PICOWS_NEON 1
#  include <arm_neon.h>
#endif

/* The key as it applies from payload[offset] on. */
static inline uint32_t key_from(uint32_t key, size_t offset)
{
    const unsigned shift = 8 * (unsigned)(offset & 3);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return (key << shift) | (key >> ((32 - shift) & 31));
#else
    return (key >> shift) | (key << ((32 - shift) & 31));
#endif
}

static inline uint64_t twice(uint32_t key)
{
    return ((uint64_t)key << 32) | key;
}

static inline uint64_t xor8(const unsigned char *src, uint64_t key)
{
    uint64_t word;
    memcpy(&word, src, 8);
    return word ^ key;
}

static inline uint32_t xor4(const unsigned char *src, uint32_t key)
{
    uint32_t word;
    memcpy(&word, src, 4);
    return word ^ key;
}

/* n < 16 */
static inline void mask_short(unsigned char *dst, const unsigned char *src, size_t n, uint32_t key)
{
    if (n >= 8) {
        const uint64_t first = xor8(src, twice(key));
        const uint64_t last = xor8(src + n - 8, twice(key_from(key, n)));
        memcpy(dst, &first, 8);
        memcpy(dst + n - 8, &last, 8);
    } else if (n >= 4) {
        const uint32_t first = xor4(src, key);
        const uint32_t last = xor4(src + n - 4, key_from(key, n));
        memcpy(dst, &first, 4);
        memcpy(dst + n - 4, &last, 4);
    } else {
        unsigned char octets[4];
        size_t i;
        memcpy(octets, &key, 4);
        for (i = 0; i < n; i++)
            dst[i] = src[i] ^ octets[i];
    }
}

static void mask_portable(unsigned char *dst, const unsigned char *src, size_t n, uint32_t key)
{
    const uint64_t key8 = twice(key);
    uint64_t last;
    size_t i = 0;

    if (n < 16) {
        mask_short(dst, src, n, key);
        return;
    }
    last = xor8(src + n - 8, twice(key_from(key, n)));
    for (; n - i > 32; i += 32) {
        const uint64_t a = xor8(src + i, key8);
        const uint64_t b = xor8(src + i + 8, key8);
        const uint64_t c = xor8(src + i + 16, key8);
        const uint64_t d = xor8(src + i + 24, key8);
        memcpy(dst + i, &a, 8);
        memcpy(dst + i + 8, &b, 8);
        memcpy(dst + i + 16, &c, 8);
        memcpy(dst + i + 24, &d, 8);
    }
    for (; n - i > 8; i += 8) {
        const uint64_t word = xor8(src + i, key8);
        memcpy(dst + i, &word, 8);
    }
    memcpy(dst + n - 8, &last, 8);
}

#ifdef PICOWS_SSE2

static inline __m128i xor16(const unsigned char *src, __m128i key)
{
    return _mm_xor_si128(_mm_loadu_si128((const __m128i *)src), key);
}

static inline void store16(unsigned char *dst, __m128i octets)
{
    _mm_storeu_si128((__m128i *)dst, octets);
}

static void mask_sse2(unsigned char *dst, const unsigned char *src, size_t n, uint32_t key)
{
    __m128i key16, last;
    size_t i = 0;

    if (n < 16) {
        mask_short(dst, src, n, key);
        return;
    }
    key16 = _mm_set1_epi32((int)key);
    last = xor16(src + n - 16, _mm_set1_epi32((int)key_from(key, n)));
    for (; n - i > 64; i += 64) {
        const __m128i a = xor16(src + i, key16);
        const __m128i b = xor16(src + i + 16, key16);
        const __m128i c = xor16(src + i + 32, key16);
        const __m128i d = xor16(src + i + 48, key16);
        store16(dst + i, a);
        store16(dst + i + 16, b);
        store16(dst + i + 32, c);
        store16(dst + i + 48, d);
    }
    for (; n - i > 16; i += 16)
        store16(dst + i, xor16(src + i, key16));
    store16(dst + n - 16, last);
}

#endif

#ifdef PICOWS_AVX2

TARGET_AVX2 static inline __m256i xor32(const unsigned char *src, __m256i key)
{
    return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)src), key);
}

TARGET_AVX2 static inline void store32(unsigned char *dst, __m256i octets)
{
    _mm256_storeu_si256((__m256i *)dst, octets);
}

TARGET_AVX2 static void mask_avx2(
    unsigned char *dst, const unsigned char *src, size_t n, uint32_t key)
{
    __m256i key32, first, last;
    size_t i;

    if (n < 16) {
        mask_short(dst, src, n, key);
        return;
    }
    if (n < 32) {
        const __m128i low = xor16(src, _mm_set1_epi32((int)key));
        const __m128i high = xor16(src + n - 16, _mm_set1_epi32((int)key_from(key, n)));
        store16(dst, low);
        store16(dst + n - 16, high);
        return;
    }
    first = xor32(src, _mm256_set1_epi32((int)key));
    last = xor32(src + n - 32, _mm256_set1_epi32((int)key_from(key, n)));
    i = n < 256 ? 32 : 32 - ((uintptr_t)dst & 31);
    key32 = _mm256_set1_epi32((int)key_from(key, i));
    for (; n - i > 128; i += 128) {
        const __m256i a = xor32(src + i, key32);
        const __m256i b = xor32(src + i + 32, key32);
        const __m256i c = xor32(src + i + 64, key32);
        const __m256i d = xor32(src + i + 96, key32);
        store32(dst + i, a);
        store32(dst + i + 32, b);
        store32(dst + i + 64, c);
        store32(dst + i + 96, d);
    }
    for (; n - i > 32; i += 32)
        store32(dst + i, xor32(src + i, key32));
    store32(dst, first);
    store32(dst + n - 32, last);
}

#endif

#ifdef PICOWS_NEON

static inline uint8x16_t xor16(const unsigned char *src, uint8x16_t key)
{
    return veorq_u8(vld1q_u8(src), key);
}

static void mask_neon(unsigned char *dst, const unsigned char *src, size_t n, uint32_t key)
{
    uint8x16_t key16, last;
    size_t i = 0;

    if (n < 16) {
        mask_short(dst, src, n, key);
        return;
    }
    key16 = vreinterpretq_u8_u32(vdupq_n_u32(key));
    last = xor16(src + n - 16, vreinterpretq_u8_u32(vdupq_n_u32(key_from(key, n))));
    for (; n - i > 64; i += 64) {
        const uint8x16_t a = xor16(src + i, key16);
        const uint8x16_t b = xor16(src + i + 16, key16);
        const uint8x16_t c = xor16(src + i + 32, key16);
        const uint8x16_t d = xor16(src + i + 48, key16);
        vst1q_u8(dst + i, a);
        vst1q_u8(dst + i + 16, b);
        vst1q_u8(dst + i + 32, c);
        vst1q_u8(dst + i + 48, d);
    }
    for (; n - i > 16; i += 16)
        vst1q_u8(dst + i, xor16(src + i, key16));
    vst1q_u8(dst + n - 16, last);
}

#endif

static const picows_mask_kernel kernels[] = {
#ifdef PICOWS_AVX2
    {"avx2", mask_avx2},
#endif
#ifdef PICOWS_SSE2
    {"sse2", mask_sse2},
#endif
#ifdef PICOWS_NEON
    {"neon", mask_neon},
#endif
    {"portable", mask_portable},
    {NULL, NULL},
};

const picows_mask_kernel *picows_mask_kernels(void)
{
#ifdef PICOWS_AVX2
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        return kernels + 1;
#endif
    return kernels;
}
