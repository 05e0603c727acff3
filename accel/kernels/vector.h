/* Vectors of float32 and what native.c and quantised.h both need of them. */
#ifndef SKIPSTEP_VECTOR_H
#define SKIPSTEP_VECTOR_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define PANEL (2 * LANES) /* columns of a packed panel */
#define ROWS 6            /* rows that a micro-kernel holds in registers */
#define AHEAD 4096        /* bytes of weights that are fetched before they are needed */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float oct __attribute__((vector_size(32), aligned(4), may_alias));

enum { STORE, GELU, ADD }; /* what follows a linear */

/* What a linear is given: (batch, rows, inputs) -> (batch, rows, padded outputs). Rows may overlap. */
typedef struct {
  int batch, rows;
  const float *x;
  int64_t x_stride; /* between rows of the batch */
  int ldx;          /* between rows */
  float *y;
  int64_t y_stride;
  int ldy, then;
} Rows;

static inline int padded(int n) { return (n + PANEL - 1) / PANEL * PANEL; }

static inline vec splat(float x) { return x - (vec){}; }
static inline vec choose(ivec mask, vec yes, vec no) {
  return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}
/* The larger one; a if either is NaN, so that NaN in a stays. */
static inline vec larger(vec a, vec b) { return choose(b > a, b, a); }
static inline vec with_sign(vec size, vec sign) {
  return (vec)((ivec)size | ((ivec)sign & (int32_t)0x80000000));
}

/* exp(x) for x <= 0 to 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. */
static inline vec exp_negative(vec x) {
  x = larger(x, splat(-87.0f));
  vec n = x * splat(1.44269504f) + splat(12582912.0f);
  ivec bits = (ivec)n;
  n -= splat(12582912.0f);
  vec r = x - n * splat(0.693359375f) - n * splat(-2.12194440e-4f), p = splat(1.0f / 5040);
  for (int i = 0; i < 6; i++) {
    static const float c[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f};
    p = p * r + splat(c[i]);
  }
  p = p * r + splat(1.0f);
  return (vec)((ivec)p + (bits << 23));
}

/* x Phi(x) with erf from Abramowitz and Stegun 7.1.26, absolute error below 2e-7. */
static inline __attribute__((always_inline)) vec gelu(vec x) {
  vec z = x * splat(0.70710678f), a = larger(z, -z);
  vec t = splat(1.0f) / (splat(1.0f) + splat(0.3275911f) * a), p = splat(1.061405429f);
  p = p * t - splat(1.453152027f);
  p = p * t + splat(1.421413741f);
  p = p * t - splat(0.284496736f);
  p = p * t + splat(0.254829592f);
  vec erf = with_sign(splat(1.0f) - p * t * exp_negative(-a * a), z);
  return splat(0.5f) * x * (splat(1.0f) + erf);
}

/* The sums of one row and panel to where they go. */
static inline void finish(vec s0, vec s1, float *y, int then) {
  vec *o = (vec *)y;
  if (then == GELU) s0 = gelu(s0), s1 = gelu(s1);
  if (then == ADD) s0 += o[0], s1 += o[1];
  o[0] = s0, o[1] = s1;
}
#endif
