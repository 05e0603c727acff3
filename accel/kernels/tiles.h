/* Products of bfloat16 by matrices, as AMX makes them, and the panels of a linear in them.
 *
 * A tile is 16 rows of 64 bytes. One instruction multiplies the rows of a tile, each of 16 pairs, by
 * 16 pairs of each of 16 columns: the products of the pairs' first values are added up, those of the
 * second ones too, each product by a fused multiply-add to nearest even; then the two sums are added,
 * and that to what the result was. Denormals are zero throughout (Intel's Software Developer's
 * Manual, TDPBF16PS). Where the CPU has no such instruction the same is done number by number,
 * which is slow: it is there to be tested.
 */
#ifndef SKIPSTEP_TILES_H
#define SKIPSTEP_TILES_H
#include "bfloat.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && LANES == 16 && defined(__linux__)
#define TILES_WORK 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define TILES_WORK 0
#endif

enum { SIDE = 16 };                 /* rows of a tile, pairs in one of its rows */
enum { TILE_PERMISSION = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */

/* How rows of a layer lie in tiles: as many blocks as they need, all of one height. */
typedef struct {
  int blocks, height, depth; /* depth: tiles side by side, of a row's inputs */
} Tiling;

/* Whether there is the instruction, and this process may use it: Linux gives the tiles when asked. */
int32_t tiles_work(void) {
#if TILES_WORK
  return !syscall(SYS_arch_prctl, TILE_PERMISSION, TILE_DATA);
#else
  return 0;
#endif
}

static Tiling tiling(int64_t rows, int inputs) {
  const int blocks = (int)((rows + SIDE - 1) / SIDE);
  return (Tiling){blocks, blocks ? (int)((rows + blocks - 1) / blocks) : 0,
                  (pairs_of(inputs) + SIDE - 1) / SIDE};
}

/* Pairs of all rows of all blocks, and what it takes to begin where a cache line does. */
static int64_t tiled_pairs(int64_t rows, int inputs) {
  const Tiling t = tiling(rows, inputs);
  return ((int64_t)t.blocks * t.height * t.depth + 1) * SIDE;
}

static pair *aligned(float *scratch) {
  return (pair *)(((uintptr_t)scratch + 4 * SIDE - 1) / (4 * SIDE) * (4 * SIDE));
}

/* A row to where its tiles are: (block, tile, row of the block, pair); the last one ends in zeros. */
static void tile_row(const float *x, int inputs, const Tiling *t, int row, pair *tiles) {
  pair *to = tiles + ((int64_t)(row / t->height) * t->depth * t->height + row % t->height) * SIDE;
  for (int at = 0; at < inputs; at += 2 * SIDE, to += t->height * SIDE) {
    const int n = inputs - at < 2 * SIDE ? inputs - at : 2 * SIDE;
    if (n < 2 * SIDE) memset(to, 0, SIDE * sizeof *to);
    round_row(x + at, n, to);
  }
}

#if TILES_WORK
/* For blocks of so many rows: results in tiles 0 to 3, rows in 4 and 5, weights in 6 and 7. */
static void shape_tiles(int height) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } shape __attribute__((aligned(64))) = {.palette = 1};
  for (int i = 0; i < 8; i++) shape.bytes[i] = 4 * SIDE, shape.rows[i] = i < 6 ? height : SIDE;
  _tile_loadconfig(&shape);
  __asm__ volatile("" ::: "memory"); /* what tiles are loaded from is written before this */
}
static void leave_tiles(void) { _tile_release(); }

#define BESIDE (4 * PANEL) /* bytes from one row of a panel to the next */
#define ZERO_TILES _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3)
#define PANEL_TILES(w) _tile_loadd(6, w, BESIDE); _tile_loadd(7, (w) + SIDE, BESIDE)
#define MULTIPLY_TILES(LEFT, RIGHT, ROWS) _tile_dpbf16ps(LEFT, ROWS, 6); _tile_dpbf16ps(RIGHT, ROWS, 7)
#define KEEP_TILES(LEFT, RIGHT, sums) \
  _tile_stored(LEFT, sums, BESIDE);   \
  _tile_stored(RIGHT, (sums) + SIDE, BESIDE)

/* One block times a panel, or times the two that are `next` pairs apart: four sums at once. */
static void multiply_block(const Tiling *t, const pair *a, const pair *w, int64_t next, float *sums) {
  ZERO_TILES;
  for (int k = 0; k < t->depth; k++, a += t->height * SIDE, w += SIDE * PANEL) {
    _tile_loadd(4, a, 4 * SIDE);
    PANEL_TILES(w);
    MULTIPLY_TILES(0, 1, 4);
    if (!next) continue;
    PANEL_TILES(w + next);
    MULTIPLY_TILES(2, 3, 4);
  }
  KEEP_TILES(0, 1, sums);
  if (!next) return;
  KEEP_TILES(2, 3, sums + SIDE * PANEL);
}

/* Two blocks times a panel. */
static void multiply_blocks_in_pairs(const Tiling *t, const pair *a, const pair *w, float *sums) {
  const int64_t other = (int64_t)t->depth * t->height * SIDE;
  ZERO_TILES;
  for (int k = 0; k < t->depth; k++, a += t->height * SIDE, w += SIDE * PANEL) {
    _tile_loadd(4, a, 4 * SIDE);
    _tile_loadd(5, a + other, 4 * SIDE);
    PANEL_TILES(w);
    MULTIPLY_TILES(0, 1, 4);
    MULTIPLY_TILES(2, 3, 5);
  }
  KEEP_TILES(0, 1, sums);
  KEEP_TILES(2, 3, sums + SIDE * PANEL);
}
#else
static void shape_tiles(int height) {}
static void leave_tiles(void) {}

/* What the instruction does to one number of a result: a row of pairs, and a column `PANEL` apart. */
static float tile_added(float sum, const pair *a, const pair *w) {
  float first = 0, second = 0;
  for (int k = 0; k < SIDE; k++) {
    const uint32_t x = a[k], y = w[k * PANEL];
    first = flushed(fmaf(from_bfloat(x), from_bfloat(y), first));
    second = flushed(fmaf(from_bfloat(x >> 16), from_bfloat(y >> 16), second));
  }
  return flushed(sum + flushed(first + second));
}

static void multiply_block(const Tiling *t, const pair *a, const pair *w, int64_t next, float *sums) {
  memset(sums, 0, sizeof(float) * SIDE * PANEL);
  for (int k = 0; k < t->depth; k++, a += t->height * SIDE, w += SIDE * PANEL)
    for (int r = 0; r < t->height; r++)
      for (int c = 0; c < PANEL; c++)
        sums[r * PANEL + c] = tile_added(sums[r * PANEL + c], a + r * SIDE, w + c);
  w -= t->depth * SIDE * PANEL, a -= t->depth * t->height * SIDE;
  if (next) multiply_block(t, a, w + next, 0, sums + SIDE * PANEL);
}

static void multiply_blocks_in_pairs(const Tiling *t, const pair *a, const pair *w, float *sums) {
  multiply_block(t, a, w, 0, sums);
  multiply_block(t, a + (int64_t)t->depth * t->height * SIDE, w, 0, sums + SIDE * PANEL);
}
#endif

/* The sums of a block and panel, and the bias, to where the rows go. */
static void finish_block(const Rows *f, const Tiling *t, int block, const float *sums,
                         const float *bias, int column) {
  const int all = f->batch * f->rows, first = block * t->height;
  for (int r = 0; r < t->height && first + r < all; r++) {
    const int i = first + r;
    float *y = f->y + i / f->rows * f->y_stride + (int64_t)(i % f->rows) * f->ldy + column;
    const vec *s = (const vec *)(sums + r * PANEL), *b = (const vec *)(bias + column);
    finish(s[0] + b[0], s[1] + b[1], y, f->then);
  }
}

/* Panels `from` to `to` of columns: two blocks at a time, and where there is one, two panels. */
static void tiled_panels(const Rows *f, const Tiling *t, const pair *tiles, const void *weight,
                         const float *bias, int from, int to) {
  const int64_t size = (int64_t)t->depth * SIDE * PANEL, block = (int64_t)t->depth * t->height * SIDE;
  float sums[2 * SIDE * PANEL] __attribute__((aligned(64)));
  shape_tiles(t->height);
  for (int p = from, both; p < to; p += 1 + both) {
    const pair *w = (const pair *)weight + p * size;
    both = t->blocks == 1 && p + 1 < to;
    for (int i = 0; i < t->blocks; i += 2) {
      const int pairwise = i + 1 < t->blocks;
      if (pairwise) multiply_blocks_in_pairs(t, tiles + i * block, w, sums);
      else multiply_block(t, tiles + i * block, w, both ? size : 0, sums);
      finish_block(f, t, i, sums, bias, p * PANEL);
      if (pairwise) finish_block(f, t, i + 1, sums + SIDE * PANEL, bias, p * PANEL);
      else if (both) finish_block(f, t, i, sums + SIDE * PANEL, bias, (p + 1) * PANEL);
    }
  }
  leave_tiles();
}
#endif
