/* Products of bfloat16 in pairs, as vdpbf16ps makes them, and the kernels of a linear in them.
 *
 * The instruction adds two products to a float, that of the second value of a pair first. Each is a
 * fused multiply-add rounded to nearest even, denormals are zero before and after it, and the modes
 * of the thread do not matter (Intel's Software Developer's Manual, VDPBF16PS). Where the CPU has no
 * such instruction the same is done number by number, which is slow: it is there to be tested.
 */
#ifndef SKIPSTEP_BFLOAT_H
#define SKIPSTEP_BFLOAT_H
#include "vector.h"

#if defined(__AVX512BF16__) && LANES == 16
#define BFLOAT_WORKS 1
#else
#define BFLOAT_WORKS 0
#endif

enum { ROUND_COST = 2 }; /* of a number that is rounded, in multiply-adds */

typedef uint32_t pair __attribute__((aligned(2), may_alias)); /* two bfloat16, the first one low */

int32_t bfloat_works(void) { return BFLOAT_WORKS; }

typedef union {
  float value;
  uint32_t bits;
} Float;

/* A denormal as zero of its sign. */
static inline float flushed(float x) {
  Float f = {x};
  if (!(f.bits & 0x7f800000)) f.bits &= 0x80000000;
  return f.value;
}

/* The nearest bfloat16, to even; NaN stays NaN. As vcvtneps2bf16. */
static inline uint16_t to_bfloat(float x) {
  const Float f = {flushed(x)};
  if ((f.bits & 0x7fffffff) > 0x7f800000) return f.bits >> 16 | 0x40;
  return (f.bits + 0x7fff + (f.bits >> 16 & 1)) >> 16;
}

static inline float from_bfloat(uint16_t b) {
  const Float f = {.bits = (uint32_t)b << 16};
  return flushed(f.value);
}

/* What the instruction does to one float. */
static inline float pair_added(float sum, uint32_t a, uint32_t b) {
  sum = flushed(fmaf(from_bfloat(a >> 16), from_bfloat(b >> 16), flushed(sum)));
  return flushed(fmaf(from_bfloat(a), from_bfloat(b), sum));
}

#if BFLOAT_WORKS
typedef __m512bh pairs;
#define PAIRS(p) (pairs) _mm512_loadu_si512(p)
#define EACH_PAIR(x) (pairs) _mm512_set1_epi32(x)
static inline vec pairs_added(vec sum, pairs a, pairs b) {
  return (vec)_mm512_dpbf16_ps((__m512)sum, a, b);
}
#else
typedef ivec pairs;
#define PAIRS(p) *(const pairs *)(p)
#define EACH_PAIR(x) ((int32_t)(x) - (pairs){})
static inline vec pairs_added(vec sum, pairs a, pairs b) {
  for (int i = 0; i < LANES; i++) sum[i] = pair_added(sum[i], a[i], b[i]);
  return sum;
}
#endif

/* Pairs of a row of `inputs` channels; the last one is filled with a zero. */
static inline int pairs_of(int inputs) { return (inputs + 1) / 2; }

/* A row in bfloat16. */
static void round_row(const float *x, int inputs, pair *to) {
  int i = 0;
#if BFLOAT_WORKS
  for (; i + LANES <= inputs; i += LANES) {
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
    memcpy(to + i / 2, &half, sizeof half);
  }
#endif
  for (; i < inputs; i += 2) {
    const uint32_t second = i + 1 < inputs ? to_bfloat(x[i + 1]) : 0;
    to[i / 2] = second << 16 | to_bfloat(x[i]);
  }
}

/* m rows of pairs (`ld` pairs apart) times one panel, (pairs, PANEL) pairs: as KERNEL of linear.h. */
#define BFLOAT_KERNEL(M)                                                                          \
  static void bfloat_##M(int n, const float *rows, int ld, const void *weight, const float *b,    \
                         float *y, int ldy, int then) {                                           \
    const pair *w = weight, *x = (const pair *)rows;                                              \
    vec s0[M], s1[M];                                                                             \
    for (int r = 0; r < M; r++) s0[r] = *(const vec *)b, s1[r] = *(const vec *)(b + LANES);       \
    for (int k = 0; k < n; k++, w += PANEL) {                                                     \
      const pairs w0 = PAIRS(w), w1 = PAIRS(w + LANES);                                           \
      __builtin_prefetch((const char *)w + AHEAD);                                                \
      _Pragma("GCC unroll 6") for (int r = 0; r < M; r++) {                                       \
        const pairs a = EACH_PAIR(x[r * ld + k]);                                                 \
        s0[r] = pairs_added(s0[r], a, w0), s1[r] = pairs_added(s1[r], a, w1);                     \
      }                                                                                           \
    }                                                                                             \
    for (int r = 0; r < M; r++) finish(s0[r], s1[r], y + r * ldy, then);                          \
  }
BFLOAT_KERNEL(1) BFLOAT_KERNEL(2) BFLOAT_KERNEL(3)
BFLOAT_KERNEL(4) BFLOAT_KERNEL(5) BFLOAT_KERNEL(6)
#endif
