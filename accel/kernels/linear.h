/* Linear layers with packed weights: what native.c and unet.c multiply with. */
#ifndef SKIPSTEP_LINEAR_H
#define SKIPSTEP_LINEAR_H
#include "helper.h" /* before system headers */
#include "quantised.h"
#include "tiles.h"

#if defined(__AVX512F__)
#define HALF_WORKS 1
#define HALVES(p) (vec) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#elif defined(__F16C__)
#define HALF_WORKS 1
#define HALVES(p) (vec) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#else
#define HALF_WORKS 0
#endif
#define FLOATS(p) *(const vec *)(p)

enum { SINGLE, HALF, BFLOAT, TILES }; /* how weights are stored; the last two round inputs as well */

typedef struct {
  const void *weight; /* panels of PANEL columns, (inputs, PANEL) each, padded by zeros; or pairs */
  const float *bias;
  int32_t inputs, outputs, stored; /* stored: one of the kinds below */
  const Quant *quant;            /* or null; then `weight` has codes, see quantised.h */
} Linear;

int32_t panel_width(void) { return PANEL; }
int32_t half_works(void) { return HALF_WORKS; }

#define KERNEL(NAME, TYPE, LOAD, M)                                                               \
  static void NAME##_##M(int inputs, const float *x, int ldx, const void *weight, const float *b, \
                         float *y, int ldy, int then) {                                           \
    const TYPE *w = weight;                                                                       \
    vec s0[M], s1[M];                                                                             \
    for (int r = 0; r < M; r++) {                                                                 \
      s0[r] = *(const vec *)b;                                                                    \
      s1[r] = *(const vec *)(b + LANES);                                                          \
    }                                                                                             \
    for (int k = 0; k < inputs; k++, w += PANEL) {                                                \
      vec w0 = LOAD(w), w1 = LOAD(w + LANES);                                                     \
      __builtin_prefetch((const char *)w + AHEAD);                                                \
      _Pragma("GCC unroll 6") for (int r = 0; r < M; r++) {                                       \
        vec a = splat(x[r * ldx + k]);                                                            \
        s0[r] += a * w0;                                                                          \
        s1[r] += a * w1;                                                                          \
      }                                                                                           \
    }                                                                                             \
    for (int r = 0; r < M; r++) finish(s0[r], s1[r], y + r * ldy, then);                          \
  }
#define KERNELS(NAME, TYPE, LOAD)                                                                 \
  KERNEL(NAME, TYPE, LOAD, 1) KERNEL(NAME, TYPE, LOAD, 2) KERNEL(NAME, TYPE, LOAD, 3)             \
  KERNEL(NAME, TYPE, LOAD, 4) KERNEL(NAME, TYPE, LOAD, 5) KERNEL(NAME, TYPE, LOAD, 6)
#define TABLE(NAME) {0, NAME##_1, NAME##_2, NAME##_3, NAME##_4, NAME##_5, NAME##_6}

typedef void (*Kernel)(int, const float *, int, const void *, const float *, float *, int, int);
KERNELS(full, float, FLOATS)
#if HALF_WORKS
KERNELS(half, uint16_t, HALVES)
static const Kernel kernels[3][ROWS + 1] = {TABLE(full), TABLE(half), TABLE(bfloat)};
#else
static const Kernel kernels[3][ROWS + 1] = {TABLE(full), {0}, TABLE(bfloat)};
#endif

/* Floats that `linear` needs for its scratch. */
int64_t linear_floats(const Linear *l, int64_t rows) {
  if (l->quant) return quantised_floats(l->quant, rows);
  if (l->stored == TILES) return tiled_pairs(rows, l->inputs);
  return l->stored == BFLOAT ? rows * pairs_of(l->inputs) : 0;
}

/* A linear whose weights are no codes, and its rows; in pairs of bfloat16, if it takes those. */
typedef struct {
  const Linear *l;
  const Rows *rows;
  pair *pairs;
  Tiling tiling; /* of the rows in pairs, if they lie in tiles */
} Floats;

/* Rows `from` to `to` of all in bfloat16. */
static void round_rows(const void *what, int from, int to, int who) {
  const Floats *k = what;
  const Rows *f = k->rows;
  for (int i = from; i < to; i++) {
    const float *x = f->x + i / f->rows * f->x_stride + (int64_t)(i % f->rows) * f->ldx;
    if (k->l->stored == TILES) tile_row(x, k->l->inputs, &k->tiling, i, k->pairs);
    else round_row(x, k->l->inputs, k->pairs + (int64_t)i * pairs_of(k->l->inputs));
  }
}

/* Panels `from` to `to` of columns; a panel stays in cache while all rows pass. */
static void panels(const void *what, int from, int to, int who) {
  const Floats *k = what;
  const Linear *l = k->l;
  Rows f = *k->rows;
  if (l->stored == TILES) {
    tiled_panels(&f, &k->tiling, k->pairs, l->weight, l->bias, from, to);
    return;
  }
  int n = l->inputs, bytes = l->stored == HALF ? 2 : 4;
  if (l->stored == BFLOAT) {
    n = f.ldx = pairs_of(n);
    f.x = (const float *)k->pairs, f.x_stride = (int64_t)f.rows * n;
  }
  for (int c = from * PANEL; c < to * PANEL; c += PANEL) {
    const void *w = (const char *)l->weight + (int64_t)c * n * bytes;
    for (int b = 0; b < f.batch; b++)
      for (int r = 0; r < f.rows; r += ROWS) {
        const int m = f.rows - r < ROWS ? f.rows - r : ROWS;
        kernels[l->stored][m](n, f.x + b * f.x_stride + (int64_t)r * f.ldx, f.ldx, w, l->bias + c,
                              f.y + b * f.y_stride + (int64_t)r * f.ldy + c, f.ldy, f.then);
      }
  }
}

/* Rows through a layer. */
static void apply(Work *work, const Linear *l, const Rows *f, float *scratch) {
  if (l->quant) {
    quantised(work, l->quant, l->weight, l->bias, l->inputs, l->outputs, f, scratch);
    return;
  }
  const int all = f->batch * f->rows, tiles = l->stored == TILES;
  const Floats what = {l, f, tiles ? aligned(scratch) : (pair *)scratch,
                       tiles ? tiling(all, l->inputs) : (Tiling){0}};
  if (l->stored == BFLOAT || tiles)
    share(work, round_rows, &what, all, (int64_t)all * l->inputs * ROUND_COST);
  share(work, panels, &what, (l->outputs + PANEL - 1) / PANEL, (int64_t)all * l->inputs * l->outputs);
}

/* (rows, inputs) -> (rows, padded outputs), on one thread. */
void linear(const Linear *l, int rows, const float *x, int ldx, float *y, int ldy, int then,
            float *scratch) {
  Work alone = {0};
  apply(&alone, l, &(Rows){1, rows, x, 0, ldx, y, 0, ldy, then}, scratch);
}
#endif
