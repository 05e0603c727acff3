/* A quantised linear: smooth, rotate, permute, rotate, quantise per token, integer product, scale,
 * and where the outputs were rotated before quantising, rotate them back.
 *
 * Included by native.c. kernels.py packs the layers and checks the results against torch. The
 * product is exact on every path (which one, is chosen by what the compiler may use):
 *   - VNNI, weights of 4 or 8 bits: weights plus an offset are unsigned, a token's codes signed;
 *     vpdpbusd adds four products to int32, and the offset times the sum of codes is subtracted.
 *   - AVX2 or AVX-512 without VNNI, 8 bits: both are widened to 16 bits, vpmaddwd adds two products
 *     to int32 (vpmaddubsw would saturate: 2 * 255 * 127 > 32767).
 *   - the same machines, 4 bits: |codes| <= 127 times unsigned weights <= 15. vpmaddubsw adds two
 *     products (<= 3810), and eight such sums (<= 30480) still fit into 16 bits.
 */
#ifndef SKIPSTEP_QUANTISED_H
#define SKIPSTEP_QUANTISED_H
#include "helper.h"
#include "rotation.h"

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && LANES == 8)
#define DOTS 1
#else
#define DOTS 0
#endif
#if DOTS || (defined(__AVX2__) && LANES == 8) || defined(__AVX512BW__)
#define INTEGERS 1
#else
#define INTEGERS 0
#endif
#define MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to nearest even, the low bits are the code */

enum { NO_ROTATION, HADAMARD, STORED };
enum { TOKEN_COST = 32 }; /* of a channel's transform and code, in multiply-adds */

typedef struct {
  int32_t width;  /* channels after padding, a multiple of block */
  int32_t block, first_kind, second_kind;
  int32_t bits;   /* of a weight's storage: 4 or 8 */
  int32_t top;    /* the largest code of a token */
  int32_t turn, turn_kind; /* of the outputs' rotation: its block, and one of the kinds above */
  float reach;    /* clip / top: a token's scale is its maximum times this */
  const float *smooth;         /* (inputs,) factors of the inputs, Hadamard's norms among them */
  const float *first, *second; /* (width / block, block, block) where stored */
  const int32_t *perm;         /* (width,) or null */
  const float *scale;          /* (padded outputs,) of the weight, Hadamard's norm of `turn` in it */
  const float *back;           /* (outputs / turn, turn, turn) where stored */
} Quant;

/* Channels of a row of codes: whole quadruples of vectors, and of the 8 steps of 4 that a sum of 16
 * bits holds; what is past `width` is zero. */
static inline int depth_of(const Quant *q) {
  return (q->width + 4 * LANES - 1) / (4 * LANES) * (4 * LANES);
}
/* Bytes of a code: 16 bits where products need them. */
static inline int code_bytes(const Quant *q) { return q->bits == 8 && !DOTS ? 2 : 1; }
/* What is added to a weight's code to make it unsigned. */
static inline int offset_of(const Quant *q) { return q->bits == 4 ? 8 : DOTS ? 128 : 0; }
/* Channels whose weights lie side by side. */
static inline int group_of(const Quant *q) { return code_bytes(q) == 2 ? 2 : 4; }

#if INTEGERS
typedef int32_t word __attribute__((aligned(1), may_alias)); /* moved as it is */

#if LANES == 16
typedef __m512i bits;
#define LOAD(p) _mm512_loadu_si512(p)
#define WIDEN(p) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(p)))
#define EACH32(x) _mm512_set1_epi32(x)
#define EACH16(x) _mm512_set1_epi16(x)
#define EACH8(x) _mm512_set1_epi8(x)
#define AND(a, b) _mm512_and_si512(a, b)
#define HIGH(a) _mm512_srli_epi16(a, 4)
#define PAIRS16(a, b) _mm512_madd_epi16(a, b)
#define PAIRS8(a, b) _mm512_maddubs_epi16(a, b)
#define PLUS32(a, b) _mm512_add_epi32(a, b)
#define DOT(s, u, a) _mm512_dpbusd_epi32(s, u, a)
#define LARGER32(a, b) (ivec) _mm512_max_epi32((bits)(a), (bits)(b))
#define ZERO _mm512_setzero_si512()
static inline void store16(char *p, const ivec c[4]) {
  for (int i = 0; i < 4; i++)
    _mm256_storeu_si256((__m256i *)p + i, _mm512_cvtepi32_epi16((bits)c[i]));
}
static inline void store8(char *p, const ivec c[4]) {
  for (int i = 0; i < 4; i++)
    _mm_storeu_si128((__m128i *)p + i, _mm512_cvtepi32_epi8((bits)c[i]));
}
#else
typedef __m256i bits;
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define WIDEN(p) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p)))
#define EACH32(x) _mm256_set1_epi32(x)
#define EACH16(x) _mm256_set1_epi16(x)
#define EACH8(x) _mm256_set1_epi8(x)
#define AND(a, b) _mm256_and_si256(a, b)
#define HIGH(a) _mm256_srli_epi16(a, 4)
#define PAIRS16(a, b) _mm256_madd_epi16(a, b)
#define PAIRS8(a, b) _mm256_maddubs_epi16(a, b)
#define PLUS32(a, b) _mm256_add_epi32(a, b)
#define DOT(s, u, a) _mm256_dpbusd_avx_epi32(s, u, a)
#define LARGER32(a, b) (ivec) _mm256_max_epi32((bits)(a), (bits)(b))
#define ZERO _mm256_setzero_si256()
static inline bits packed16(ivec a, ivec b) { /* in halves of a, b, a, b */
  return _mm256_packs_epi32((bits)a, (bits)b);
}
static inline void store16(char *p, const ivec c[4]) {
  for (int i = 0; i < 2; i++)
    _mm256_storeu_si256((bits *)p + i, _mm256_permute4x64_epi64(packed16(c[2 * i], c[2 * i + 1]), 0xd8));
}
static inline void store8(char *p, const ivec c[4]) {
  bits all = _mm256_packs_epi16(packed16(c[0], c[1]), packed16(c[2], c[3]));
  _mm256_storeu_si256((bits *)p,
                      _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}
#endif

/* Sums of m <= ROWS rows of codes (`ld` bytes apart) times one panel: out[row][half of the panel].
 * Compiled for every m, so that all sums stay in registers. */
#define INLINE static inline __attribute__((always_inline))
#define EACH_ROW _Pragma("GCC unroll 6") for (int r = 0; r < m; r++)
/* s += p, after what is written above: compilers would load all rows first and then run out of
 * registers, or copy each sum. */
#define SUM32(s, p) __asm__ volatile("vpaddd %1, %0, %0" : "+v"(s) : "v"(p) : "memory")
#define SUM16(s, p) __asm__ volatile("vpaddw %1, %0, %0" : "+v"(s) : "v"(p) : "memory")

/* Weights: DOTS: (depth / 4, PANEL, 4) unsigned; else (depth / 2, PANEL, 2) signed. */
INLINE void bits8(const int m, int depth, const char *x, int ld, const char *w, ivec (*out)[2]) {
  bits s0[ROWS], s1[ROWS];
  EACH_ROW s0[r] = s1[r] = ZERO;
#if DOTS
  for (int k = 0; k < depth; k += 4, w += 4 * PANEL) {
    bits w0 = LOAD(w), w1 = LOAD(w + 2 * PANEL);
    __builtin_prefetch(w + AHEAD);
    EACH_ROW {
      bits a = EACH32(*(const word *)(x + r * ld + k));
      s0[r] = DOT(s0[r], w0, a), s1[r] = DOT(s1[r], w1, a);
    }
  }
#else
  for (int k = 0; k < depth; k += 2, w += 2 * PANEL) {
    bits w0 = WIDEN(w), w1 = WIDEN(w + PANEL);
    __builtin_prefetch(w + AHEAD);
    EACH_ROW {
      bits a = EACH32(*(const word *)(x + r * ld + 2 * k));
      SUM32(s0[r], PAIRS16(a, w0));
      SUM32(s1[r], PAIRS16(a, w1));
    }
  }
#endif
  EACH_ROW out[r][0] = (ivec)s0[r], out[r][1] = (ivec)s1[r];
}

/* Weights: (depth / 4, LANES, 4) bytes, unsigned, the panel's first half in the low nibbles, its
 * second half in the high ones. Without DOTS, sums of 16 bits are emptied after eight steps. */
INLINE void bits4(const int m, int depth, const char *x, int ld, const char *w, ivec (*out)[2]) {
  const bits low = EACH8(15);
  bits s0[ROWS], s1[ROWS];
  EACH_ROW s0[r] = s1[r] = ZERO;
  for (int k = 0; k < depth; k += 32) {
#if !DOTS
    bits h0[ROWS], h1[ROWS];
    EACH_ROW h0[r] = h1[r] = ZERO;
#endif
    for (int j = k; j < k + 32; j += 4, w += 2 * PANEL) {
      bits p = LOAD(w), w0 = AND(p, low), w1 = AND(HIGH(p), low);
      __builtin_prefetch(w + AHEAD);
      EACH_ROW {
        bits a = EACH32(*(const word *)(x + r * ld + j));
#if DOTS
        s0[r] = DOT(s0[r], w0, a), s1[r] = DOT(s1[r], w1, a);
#else
        SUM16(h0[r], PAIRS8(w0, a));
        SUM16(h1[r], PAIRS8(w1, a));
#endif
      }
    }
#if !DOTS
    const bits ones = EACH16(1);
    EACH_ROW s0[r] = PLUS32(s0[r], PAIRS16(h0[r], ones)), s1[r] = PLUS32(s1[r], PAIRS16(h1[r], ones));
#endif
  }
  EACH_ROW out[r][0] = (ivec)s0[r], out[r][1] = (ivec)s1[r];
}

#define OF_ROWS(NAME, M)                                                                          \
  static void NAME##_##M(int depth, const char *x, int ld, const char *w, ivec (*out)[2]) {       \
    NAME(M, depth, x, ld, w, out);                                                                \
  }
#define PRODUCTS(NAME)                                                                            \
  OF_ROWS(NAME, 1) OF_ROWS(NAME, 2) OF_ROWS(NAME, 3)                                              \
  OF_ROWS(NAME, 4) OF_ROWS(NAME, 5) OF_ROWS(NAME, 6)
PRODUCTS(bits8)
PRODUCTS(bits4)
typedef void (*Product)(int, const char *, int, const char *, ivec (*)[2]);
static const Product products[2][ROWS + 1] = {
    {0, bits8_1, bits8_2, bits8_3, bits8_4, bits8_5, bits8_6},
    {0, bits4_1, bits4_2, bits4_3, bits4_4, bits4_5, bits4_6}};

static void rotate(float *x, const Quant *q, int kind, const float *stored) {
  if (kind == HADAMARD) hadamard(x, q->block < 8 ? depth_of(q) : q->width, q->block);
  if (kind == STORED) multiply_blocks(x, q->width, q->block, stored);
}

static inline int32_t largest(ivec v) {
  int32_t each[LANES], top = 0;
  memcpy(each, &v, sizeof v); /* v[i] would keep v in memory all along */
  for (int i = 0; i < LANES; i++) top = each[i] > top ? each[i] : top;
  return top;
}
static inline int32_t sum_of(ivec v) {
  int32_t each[LANES], sum = 0;
  memcpy(each, &v, sizeof v);
  for (int i = 0; i < LANES; i++) sum += each[i];
  return sum;
}

/* One token: codes (depth,), returns its scale; *sum is the sum of its codes. NaN or infinity in x
 * make the scale NaN, so that they are not lost. */
static float token(const Quant *q, int inputs, const float *x, char *codes, int32_t *sum,
                   float *restrict work) {
  const int depth = depth_of(q);
  float *y = work, *z = work + depth;
  int n = inputs / LANES * LANES;
  for (int i = 0; i < n; i += LANES) *(vec *)(y + i) = *(const vec *)(x + i) * *(const vec *)(q->smooth + i);
  for (; n < inputs; n++) y[n] = x[n] * q->smooth[n];
  memset(y + inputs, 0, 4 * (depth - inputs));
  rotate(y, q, q->first_kind, q->first);
  if (q->perm) {
    _Pragma("GCC unroll 8") for (int i = 0; i < q->width; i++)
      ((word *)z)[i] = ((const word *)y)[q->perm[i]];
    memset(z + q->width, 0, 4 * (depth - q->width));
    y = z;
  }
  rotate(y, q, q->second_kind, q->second);
  ivec most = {}, next = {}; /* bits of magnitudes are ordered as these are, and NaN comes last */
  for (int i = 0; i < depth; i += 2 * LANES) {
    most = LARGER32(most, *(const ivec *)(y + i) & 0x7fffffff);
    next = LARGER32(next, *(const ivec *)(y + i + LANES) & 0x7fffffff);
  }
  union { int32_t bits; float value; } peak = {.bits = largest(LARGER32(most, next))};
  if (peak.bits >= 0x7f800000) {
    memset(codes, 0, depth * code_bytes(q));
    *sum = 0;
    return NAN;
  }
  float scale = peak.value * q->reach;
  scale = scale > 1e-30f ? scale : 1e-30f; /* codes.py's TINY */
  const vec inverse = splat(1 / scale), limit = splat(scale * q->top);
  const int clips = q->reach * q->top < 0.999999f;
  ivec total = {};
  for (int i = 0; i < depth; i += 4 * LANES) {
    ivec c[4];
    for (int j = 0; j < 4; j++) {
      vec v = *(const vec *)(y + i + j * LANES);
      if (clips) v = -larger(-larger(v, -limit), -limit);
      c[j] = (ivec)(v * inverse + splat(MAGIC)) - (ivec)splat(MAGIC);
      total += c[j];
    }
    if (code_bytes(q) == 2) store16(codes + 2 * i, c);
    else store8(codes + i, c);
  }
  *sum = offset_of(q) ? sum_of(total) : 0;
  return scale;
}

/* Floats that a quantised linear needs for its scratch; each of two threads works in its own. */
static int64_t quantised_floats(const Quant *q, int64_t rows) {
  return rows * (depth_of(q) * code_bytes(q) / 4 + 2) + 4 * depth_of(q);
}

/* A quantised linear and its rows, in codes. */
typedef struct {
  const Quant *q;
  const char *weight;
  const float *bias;
  int inputs, outputs;
  const Rows *rows;
  float *scales, *work; /* of a token; (2, 2 depth) */
  int32_t *sums;
  char *codes;
} Coded;

/* Codes of tokens `from` to `to`, each rounded by itself. */
static void tokens(const void *what, int from, int to, int who) {
  const Coded *k = what;
  const Rows *f = k->rows;
  const int depth = depth_of(k->q);
  for (int i = from; i < to; i++) {
    const float *x = f->x + i / f->rows * f->x_stride + (int64_t)(i % f->rows) * f->ldx;
    k->scales[i] = token(k->q, k->inputs, x, k->codes + (int64_t)i * depth * code_bytes(k->q),
                         k->sums + i, k->work + who * 2 * depth);
  }
}

/* Columns that are computed together: whole blocks of the outputs' rotation. */
static inline int group_width(const Quant *q) {
  return q->turn_kind != NO_ROTATION && q->turn > PANEL ? q->turn : PANEL;
}

/* Products of rows of codes, rotated back before the bias: by groups of columns that hold whole blocks
 * of the rotation, which stay in cache meanwhile. */
static void turned(const void *what, int first, int last, int who) {
  const Coded k = *(const Coded *)what; /* copies, which no store to `y` can change */
  const Quant *q = k.q;
  const Rows f = *k.rows;
  const int depth = depth_of(q), ld = depth * code_bytes(q), offset = offset_of(q);
  const int64_t panel = (int64_t)depth * PANEL * q->bits / 8;
  const int group = group_width(q);
  float tile[ROWS * 512];
  for (int c = first * group; c < last * group; c += group)
    for (int b = 0; b < f.batch; b++) for (int r = 0; r < f.rows; r += ROWS) {
      const int m = f.rows - r < ROWS ? f.rows - r : ROWS, from = b * f.rows + r;
      for (int p = 0; p < group; p += PANEL) {
        const vec *scale = (const vec *)(q->scale + c + p);
        ivec s[ROWS][2];
        products[q->bits == 4][m](depth, k.codes + (int64_t)from * ld, ld,
                                  k.weight + (c + p) / PANEL * panel, s);
        for (int i = 0; i < m; i++)
          for (int h = 0; h < 2; h++)
            *(vec *)(tile + i * group + p + h * LANES) =
                __builtin_convertvector(s[i][h] - offset * k.sums[from + i], vec) *
                splat(k.scales[from + i]) * scale[h];
      }
      for (int i = 0; i < m; i++) {
        float *t = tile + i * group, *o = f.y + b * f.y_stride + (int64_t)(r + i) * f.ldy + c;
        if (q->turn_kind == HADAMARD) hadamard(t, group, q->turn);
        else
          multiply_blocks(t, k.outputs - c < group ? k.outputs - c : group, q->turn,
                          q->back + c * q->turn);
        for (int j = 0; j < group; j += LANES) {
          vec v = *(const vec *)(t + j) + *(const vec *)(k.bias + c + j);
          if (f.then == GELU) v = gelu(v);
          if (f.then == ADD) v += *(const vec *)(o + j);
          *(vec *)(o + j) = v;
        }
      }
    }
}

/* Products of rows of codes with panels; a panel stays in cache while all rows pass. */
static void straight(const void *what, int first, int last, int who) {
  const Coded k = *(const Coded *)what; /* copies, which no store to `y` can change */
  const Quant *q = k.q;
  const Rows f = *k.rows;
  const int depth = depth_of(q), ld = depth * code_bytes(q), offset = offset_of(q);
  const int64_t panel = (int64_t)depth * PANEL * q->bits / 8;
  const char *weight = k.weight + first * panel;
  for (int c = first * PANEL; c < last * PANEL; c += PANEL, weight += panel) {
    const vec *scale = (const vec *)(q->scale + c), *added = (const vec *)(k.bias + c);
    for (int b = 0; b < f.batch; b++) for (int r = 0; r < f.rows; r += ROWS) {
      const int m = f.rows - r < ROWS ? f.rows - r : ROWS, from = b * f.rows + r;
      ivec s[ROWS][2];
      products[q->bits == 4][m](depth, k.codes + (int64_t)from * ld, ld, weight, s);
      for (int i = 0; i < m; i++) {
        vec *o = (vec *)(f.y + b * f.y_stride + (int64_t)(r + i) * f.ldy + c);
        for (int h = 0; h < 2; h++) {
          ivec exact = s[i][h] - offset * k.sums[from + i];
          vec v = __builtin_convertvector(exact, vec) * splat(k.scales[from + i]) * scale[h] + added[h];
          if (f.then == GELU) v = gelu(v);
          if (f.then == ADD) v += o[h];
          o[h] = v;
        }
      }
    }
  }
}

static void quantised(Work *work, const Quant *q, const char *weight, const float *bias, int inputs,
                      int outputs, const Rows *f, float *scratch) {
  const int depth = depth_of(q), all = f->batch * f->rows, group = group_width(q);
  Coded k = {q, weight, bias, inputs, outputs, f, .scales = scratch};
  k.sums = (int32_t *)(scratch + all), k.work = scratch + 2 * all;
  k.codes = (char *)(k.work + 4 * depth);
  share(work, tokens, &k, all, (int64_t)all * depth * TOKEN_COST);
  share(work, q->turn_kind == NO_ROTATION ? straight : turned, &k, (outputs + group - 1) / group,
        (int64_t)all * depth * outputs);
}
#else
static int64_t quantised_floats(const Quant *q, int64_t rows) { return 0; }
static void quantised(Work *work, const Quant *q, const char *weight, const float *bias, int inputs,
                      int outputs, const Rows *f, float *scratch) {}
#endif

/* Whether products of integers run here, and how weights are packed for them. */
int32_t integers_work(void) { return INTEGERS; }
int32_t packing_depth(const Quant *q) { return depth_of(q); }
int32_t packing_group(const Quant *q) { return group_of(q); }
int32_t packing_offset(const Quant *q) { return offset_of(q); }
#endif
