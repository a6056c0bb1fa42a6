/* The UTF-8 kernels. What they promise stands in utf8.h.

   The automaton decides what is valid; a kernel adds a quick way over ASCII, AVX2 one over all
   text. A state is the position of six bits in a word: the word of an input byte holds, at the
   position of each state, the state that follows. One load and one shift a byte, no branch. FAILED
   is position 0, and no byte sets the bits there, so it is followed by itself. */

#include "utf8.h"

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

/* The states: what may follow. RFC 3629 section 4. */
enum {
    FAILED = 0,
    START = 6,      /* a character */
    TAIL_1 = 12,    /* 80..BF, once */
    TAIL_2 = 18,    /* twice */
    TAIL_3 = 24,    /* three times */
    AFTER_E0 = 30,  /* A0..BF, 80..BF: less would be overlong */
    AFTER_ED = 36,  /* 80..9F, 80..BF: more would be a surrogate */
    AFTER_F0 = 42,  /* 90..BF, 80..BF, 80..BF: less would be overlong */
    AFTER_F4 = 48   /* 80..8F, 80..BF, 80..BF: more would be above U+10FFFF */
};

#define GO(from, to) ((uint64_t)(to) << (from))

#define ASCII GO(START, START)
#define LEAD(to) GO(START, to)
#define NEVER 0
#define TAIL (GO(TAIL_1, START) | GO(TAIL_2, TAIL_1) | GO(TAIL_3, TAIL_2))
#define TAIL_8 (TAIL | GO(AFTER_ED, TAIL_1) | GO(AFTER_F4, TAIL_2))
#define TAIL_9 (TAIL | GO(AFTER_ED, TAIL_1) | GO(AFTER_F0, TAIL_2))
#define TAIL_AB (TAIL | GO(AFTER_E0, TAIL_1) | GO(AFTER_F0, TAIL_2))

#define X2(word) word, word
#define X3(word) X2(word), word
#define X4(word) X2(word), X2(word)
#define X8(word) X4(word), X4(word)
#define X16(word) X8(word), X8(word)
#define X32(word) X16(word), X16(word)

static const uint64_t follow[256] = {
    /* 00..7F */ X32(ASCII), X32(ASCII), X32(ASCII), X32(ASCII),
    /* 80..9F */ X16(TAIL_8), X16(TAIL_9),
    /* A0..BF */ X32(TAIL_AB),
    /* C0..C1 */ X2(NEVER),
    /* C2..DF */ X2(LEAD(TAIL_1)), X4(LEAD(TAIL_1)), X8(LEAD(TAIL_1)), X16(LEAD(TAIL_1)),
    /* E0..E7 */ LEAD(AFTER_E0), X3(LEAD(TAIL_2)), X4(LEAD(TAIL_2)),
    /* E8..EF */ X4(LEAD(TAIL_2)), LEAD(TAIL_2), LEAD(AFTER_ED), X2(LEAD(TAIL_2)),
    /* F0..F4 */ LEAD(AFTER_F0), X3(LEAD(TAIL_3)), LEAD(AFTER_F4),
    /* F5..FF */ X3(NEVER), X8(NEVER),
};

static inline uint32_t run(uint32_t state, const unsigned char *p, size_t n)
{
    uint64_t word = state;
    size_t i;
    for (i = 0; i < n; i++)
        word = follow[p[i]] >> (word & 63);
    return (uint32_t)(word & 63);
}

static inline int verdict(picows_utf8 *state, uint32_t now)
{
    *state = now;
    return now == FAILED ? -1 : 0;
}

void picows_utf8_init(picows_utf8 *state)
{
    *state = START;
}

int picows_utf8_done(const picows_utf8 *state)
{
    return *state == START;
}

#define HIGH_BITS UINT64_C(0x8080808080808080)

static int ascii8(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return (word & HIGH_BITS) == 0;
}

static int ascii16_portable(const unsigned char *p)
{
    uint64_t words[2];
    memcpy(words, p, 16);
    return ((words[0] | words[1]) & HIGH_BITS) == 0;
}

static int ascii64_portable(const unsigned char *p)
{
    uint64_t words[8];
    memcpy(words, p, 64);
    words[0] |= words[1] | words[2] | words[3];
    words[4] |= words[5] | words[6] | words[7];
    return ((words[0] | words[4]) & HIGH_BITS) == 0;
}

typedef int (*ascii_fn)(const unsigned char *p);

/* The last bytes of ASCII text are seen in a block that overlaps the one before. */
static inline int feed_blocks(
    picows_utf8 *state, const unsigned char *p, size_t n, ascii_fn ascii16, ascii_fn ascii64)
{
    uint32_t now = *state;
    size_t i = 0;

    for (; n - i >= 64; i += 64) {
        if (now != START || !ascii64(p + i))
            now = run(now, p + i, 64);
    }
    for (; n - i >= 16; i += 16) {
        if (now != START || !ascii16(p + i))
            now = run(now, p + i, 16);
    }
    if (now == START && n >= 8) {
        if (n >= 16 ? ascii16(p + n - 16) : ascii8(p) && ascii8(p + n - 8))
            return verdict(state, now);
    }
    if (i < n)
        now = run(now, p + i, n - i);
    return verdict(state, now);
}

static int feed_portable(picows_utf8 *state, const unsigned char *p, size_t n)
{
    return feed_blocks(state, p, n, ascii16_portable, ascii64_portable);
}

#ifdef PICOWS_SSE2

static inline __m128i load16(const unsigned char *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static int ascii16_sse2(const unsigned char *p)
{
    return _mm_movemask_epi8(load16(p)) == 0;
}

static int ascii64_sse2(const unsigned char *p)
{
    const __m128i a = _mm_or_si128(load16(p), load16(p + 16));
    const __m128i b = _mm_or_si128(load16(p + 32), load16(p + 48));
    return _mm_movemask_epi8(_mm_or_si128(a, b)) == 0;
}

static int feed_sse2(picows_utf8 *state, const unsigned char *p, size_t n)
{
    return feed_blocks(state, p, n, ascii16_sse2, ascii64_sse2);
}

#endif

#ifdef PICOWS_NEON

static int ascii16_neon(const unsigned char *p)
{
    return vmaxvq_u8(vld1q_u8(p)) < 0x80;
}

static int ascii64_neon(const unsigned char *p)
{
    const uint8x16_t a = vorrq_u8(vld1q_u8(p), vld1q_u8(p + 16));
    const uint8x16_t b = vorrq_u8(vld1q_u8(p + 32), vld1q_u8(p + 48));
    return vmaxvq_u8(vorrq_u8(a, b)) < 0x80;
}

static int feed_neon(picows_utf8 *state, const unsigned char *p, size_t n)
{
    return feed_blocks(state, p, n, ascii16_neon, ascii64_neon);
}

#endif

#ifdef PICOWS_AVX2

/* Text that is not ASCII, 32 bytes at a time, after J. Keiser and D. Lemire, "Validating UTF-8 in
   less than one instruction per byte" (2020). What can be wrong with two neighbours shows in both
   nibbles of the first and the high one of the second: for each of the three a table says which
   faults it allows, a bit a fault, and what all three allow is one. What is left is whether the
   third and the fourth byte of a character stand where they have to, and nowhere else. */
enum {
    TOO_SHORT = 1,       /* 11...... followed by no tail */
    TOO_LONG = 2,        /* ASCII followed by a tail */
    OVERLONG_3 = 4,      /* E0 80..9F */
    ABOVE_10FFFF = 8,    /* F4 90..BF, F5..FF 90..BF */
    SURROGATE = 16,      /* ED A0..BF */
    OVERLONG_2 = 32,     /* C0, C1 */
    OVERLONG_4 = 64,     /* F0 80..8F */
    F5_80 = 64,          /* F5..FF 80..8F; shares the bit: no three nibbles allow half of each */
    TWO_TAILS = 128,     /* no fault in the third and the fourth byte of a character */
    ANY = TOO_SHORT | TOO_LONG | TWO_TAILS,
    FROM_F5 = ANY | ABOVE_10FFFF | F5_80,
    TAIL_2ND = TOO_LONG | TWO_TAILS | OVERLONG_2
};

#define TABLE(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))
#define BITS(mask) ((char)(mask))

TARGET_AVX2 static inline __m256i load32(const unsigned char *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

TARGET_AVX2 static inline int ascii32(__m256i octets)
{
    return _mm256_movemask_epi8(octets) == 0;
}

/* Not 0 where a character begins that these 32 bytes are too few for. */
TARGET_AVX2 static inline __m256i cut_off(__m256i octets)
{
    const __m256i most = _mm256_setr_epi8(
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, BITS(0xEF), BITS(0xDF), BITS(0xBF));
    return _mm256_subs_epu8(octets, most);
}

/* Not 0 where something is wrong, given the 32 bytes before. */
TARGET_AVX2 static inline __m256i faults(__m256i before, __m256i octets)
{
    const __m256i first_high = TABLE(
        /* 0..3 */ TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG,
        /* 4..7 */ TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG,
        /* 8..B */ BITS(TWO_TAILS), BITS(TWO_TAILS), BITS(TWO_TAILS), BITS(TWO_TAILS),
        /* C */ TOO_SHORT | OVERLONG_2,
        /* D */ TOO_SHORT,
        /* E */ TOO_SHORT | OVERLONG_3 | SURROGATE,
        /* F */ TOO_SHORT | ABOVE_10FFFF | OVERLONG_4 | F5_80);
    const __m256i first_low = TABLE(
        /* 0 */ BITS(ANY | OVERLONG_2 | OVERLONG_3 | OVERLONG_4),
        /* 1 */ BITS(ANY | OVERLONG_2),
        /* 2..3 */ BITS(ANY), BITS(ANY),
        /* 4 */ BITS(ANY | ABOVE_10FFFF),
        /* 5..8 */ BITS(FROM_F5), BITS(FROM_F5), BITS(FROM_F5), BITS(FROM_F5),
        /* 9..C */ BITS(FROM_F5), BITS(FROM_F5), BITS(FROM_F5), BITS(FROM_F5),
        /* D */ BITS(FROM_F5 | SURROGATE),
        /* E..F */ BITS(FROM_F5), BITS(FROM_F5));
    const __m256i second_high = TABLE(
        /* 0..3 */ TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,
        /* 4..7 */ TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,
        /* 8 */ BITS(TAIL_2ND | OVERLONG_3 | OVERLONG_4 | F5_80),
        /* 9 */ BITS(TAIL_2ND | OVERLONG_3 | ABOVE_10FFFF),
        /* A */ BITS(TAIL_2ND | SURROGATE | ABOVE_10FFFF),
        /* B */ BITS(TAIL_2ND | SURROGATE | ABOVE_10FFFF),
        /* C..F */ TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT);

    const __m256i nibble = _mm256_set1_epi8(0x0F);
    const __m256i across = _mm256_permute2x128_si256(before, octets, 0x21);
    const __m256i back1 = _mm256_alignr_epi8(octets, across, 15);
    const __m256i back2 = _mm256_alignr_epi8(octets, across, 14);
    const __m256i back3 = _mm256_alignr_epi8(octets, across, 13);

    const __m256i first = _mm256_and_si256(
        _mm256_shuffle_epi8(first_high, _mm256_and_si256(_mm256_srli_epi16(back1, 4), nibble)),
        _mm256_shuffle_epi8(first_low, _mm256_and_si256(back1, nibble)));
    const __m256i second = _mm256_shuffle_epi8(
        second_high, _mm256_and_si256(_mm256_srli_epi16(octets, 4), nibble));

    /* 80 where E0..FF stands two bytes before or F0..FF three: there, and only there, a tail after
       a tail (whose bit is 80) is no fault. */
    const __m256i third = _mm256_subs_epu8(back2, _mm256_set1_epi8(0xE0 - 0x80));
    const __m256i fourth = _mm256_subs_epu8(back3, _mm256_set1_epi8(0xF0 - 0x80));
    const __m256i asked = _mm256_and_si256(
        _mm256_or_si256(third, fourth), _mm256_set1_epi8(BITS(0x80)));
    return _mm256_xor_si256(_mm256_and_si256(first, second), asked);
}

/* Whether these are whole characters, from the first to the last byte. */
TARGET_AVX2 static int whole_avx2(const unsigned char *p, size_t n)
{
    __m256i before = _mm256_setzero_si256();
    __m256i wrong = _mm256_setzero_si256();
    size_t i = 0;

    for (; n - i >= 32; i += 32) {
        const __m256i octets = load32(p + i);
        wrong = _mm256_or_si256(wrong, ascii32(octets) ? cut_off(before) : faults(before, octets));
        before = octets;
    }
    if (i < n) {
        unsigned char rest[32] = {0};
        memcpy(rest, p + i, n - i);
        wrong = _mm256_or_si256(wrong, faults(before, load32(rest)));
    } else {
        wrong = _mm256_or_si256(wrong, cut_off(before));
    }
    return _mm256_testz_si256(wrong, wrong);
}

/* Where the character begins that is cut off by the end of the text; n when none is. */
static size_t last_cut(const unsigned char *p, size_t n)
{
    size_t back;
    for (back = 1; back <= 3; back++) {
        const unsigned char octet = p[n - back];
        if (octet < 0x80)
            break;
        if (octet >= 0xC0)
            return octet >= (back == 1 ? 0xC0 : back == 2 ? 0xE0 : 0xF0) ? n - back : n;
    }
    return n;
}

TARGET_AVX2 static int feed_avx2(picows_utf8 *state, const unsigned char *p, size_t n)
{
    uint32_t now = *state;
    size_t i = 0, cut;

    if (n < 32)
        return feed_sse2(state, p, n);
    for (; now != START && i < 3; i++)
        now = run(now, p + i, 1);
    if (now != START)
        return verdict(state, FAILED);

    for (; n - i >= 128; i += 128) {
        const __m256i a = _mm256_or_si256(load32(p + i), load32(p + i + 32));
        const __m256i b = _mm256_or_si256(load32(p + i + 64), load32(p + i + 96));
        if (!ascii32(_mm256_or_si256(a, b)))
            break;
    }
    for (; n - i >= 32; i += 32) {
        if (!ascii32(load32(p + i)))
            break;
    }
    if (n - i < 32 && ascii32(load32(p + n - 32)))
        return verdict(state, START);

    cut = last_cut(p, n);
    if (!whole_avx2(p + i, cut - i))
        return verdict(state, FAILED);
    return verdict(state, run(START, p + cut, n - cut));
}

#endif

static const picows_utf8_kernel kernels[] = {
#ifdef PICOWS_AVX2
    {"avx2", feed_avx2},
#endif
#ifdef PICOWS_SSE2
    {"sse2", feed_sse2},
#endif
#ifdef PICOWS_NEON
    {"neon", feed_neon},
#endif
    {"portable", feed_portable},
    {NULL, NULL},
};

const picows_utf8_kernel *picows_utf8_kernels(void)
{
#ifdef PICOWS_AVX2
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        return kernels + 1;
#endif
    return kernels;
}
