/* libFuzzer target: the UTF-8 validators and the masking kernels against naive references.

   From the root of the repository:

       clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
           -Ipicows/wire tests/fuzz/fuzz_utf8.c picows/wire/mask.c picows/wire/utf8.c \
           -o build/fuzz_utf8
       build/fuzz_utf8 -max_len=1024 <a folder for what it finds> tests/fuzz/corpus/utf8

   The input is the text, with nothing else in it: where it is cut, the mask key and the alignment
   come from a random number generator whose seed is a hash of it. Every piece lies at the end of
   an allocation of its own, where AddressSanitizer sees each byte read or written beyond it. */

#include "mask.h"
#include "utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed;

static size_t random_below(size_t limit)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (size_t)(seed % limit);
}

static void need(int truth, const char *what, const char *kernel)
{
    if (!truth) {
        fprintf(stderr, "%s: %s\n", kernel, what);
        abort();
    }
}

/* How many bytes of the text can be the beginning of valid UTF-8; *whole: whether it is valid.

   By the code points that a character can still become: its bits so far, followed by zeros and
   followed by ones, have to leave some that are neither overlong, nor surrogates, nor too large. */
static size_t good_for(const uint8_t *p, size_t n, int *whole)
{
    size_t i = 0;

    *whole = 1;
    while (i < n) {
        static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
        const uint8_t lead = p[i];
        const int length = lead < 0x80 ? 1
            : (lead & 0xE0) == 0xC0    ? 2
            : (lead & 0xF0) == 0xE0    ? 3
            : (lead & 0xF8) == 0xF0    ? 4
                                       : 0;
        uint32_t bits = length == 1 ? lead : lead & (0x7Fu >> length);
        int left = length - 1;

        *whole = 0;
        if (length == 0)
            return i;
        for (;;) {
            uint32_t low = bits << (6 * left);
            uint32_t high = low | ((1u << (6 * left)) - 1);
            if (low < smallest[length])
                low = smallest[length];
            if (high > 0x10FFFF)
                high = 0x10FFFF;
            if (low > high || (low >= 0xD800 && high <= 0xDFFF))
                return i;
            i++;
            if (left == 0)
                break;
            if (i == n)
                return n;
            if ((p[i] & 0xC0) != 0x80)
                return i;
            bits = bits << 6 | (p[i] & 0x3F);
            left--;
        }
        *whole = 1;
    }
    return n;
}

static uint8_t *at_the_end(size_t start, const uint8_t *p, size_t n)
{
    /* malloc(0) may be NULL, which is one of the pointers that n == 0 allows. */
    uint8_t *const block = malloc(start + n);
    if (start)
        memset(block, 0xA5, start);
    if (n)
        memcpy(block + start, p, n);
    return block;
}

static void check_utf8(const picows_utf8_kernel *kernel, const uint8_t *p, size_t n)
{
    int whole;
    const size_t good = good_for(p, n, &whole);
    const size_t most = 1 + random_below(random_below(2) ? 8 : n + 1);
    picows_utf8 state;
    size_t fed = 0;

    picows_utf8_init(&state);
    need(kernel->feed(&state, NULL, 0) == 0, "nothing is refused", kernel->name);
    while (fed < n) {
        const size_t rest = n - fed, size = random_below((most < rest ? most : rest) + 1);
        const size_t start = random_below(2) * random_below(64);
        uint8_t *const block = at_the_end(start, p + fed, size);
        const int verdict = kernel->feed(&state, size ? block + start : NULL, size);
        free(block);
        fed += size;
        need(verdict == (fed <= good ? 0 : -1), "cut text misjudged", kernel->name);
    }
    need(picows_utf8_done(&state) == whole, "end misjudged", kernel->name);
    if (good < n)
        need(kernel->feed(&state, (const uint8_t *)"a", 1) == -1, "fault forgotten", kernel->name);
}

static void check_mask(const picows_mask_kernel *kernel, const uint8_t *p, size_t n)
{
    const size_t start = random_below(2) * random_below(64);
    const size_t other = random_below(2) * random_below(64);
    uint8_t *const source = at_the_end(start, p, n);
    uint8_t *const target = at_the_end(other, p, n);
    uint8_t key[4];
    uint32_t word;
    size_t i;

    for (i = 0; i < 4; i++)
        key[i] = (uint8_t)random_below(256);
    memcpy(&word, key, 4);

    kernel->mask(n ? target + other : NULL, n ? source + start : NULL, n, word);
    for (i = 0; i < n; i++)
        need(target[other + i] == (p[i] ^ key[i % 4]), "masked copy is wrong", kernel->name);
    for (i = 0; i < other; i++)
        need(target[i] == 0xA5, "copy wrote before its target", kernel->name);
    need(n == 0 || memcmp(source + start, p, n) == 0, "copy changed its source", kernel->name);

    kernel->mask(n ? source + start : NULL, n ? source + start : NULL, n, word);
    need(n == 0 || memcmp(source + start, target + other, n) == 0, "in place is wrong",
         kernel->name);
    for (i = 0; i < start; i++)
        need(source[i] == 0xA5, "in place wrote before its target", kernel->name);
    free(source);
    free(target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const picows_utf8_kernel *utf8;
    const picows_mask_kernel *mask;
    size_t i;

    seed = UINT64_C(0xCBF29CE484222325);
    for (i = 0; i < size; i++)
        seed = (seed ^ data[i]) * UINT64_C(0x100000001B3);
    seed |= 1;
    for (utf8 = picows_utf8_kernels(); utf8->name; utf8++)
        check_utf8(utf8, data, size);
    for (mask = picows_mask_kernels(); mask->name; mask++)
        check_mask(mask, data, size);
    return 0;
}
