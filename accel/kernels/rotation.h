/* Blocks of a row times orthogonal matrices: Hadamard's, or stored ones. */
#ifndef SKIPSTEP_ROTATION_H
#define SKIPSTEP_ROTATION_H
#include "vector.h"

/* Neighbours at distance 1, 2 and 4 of eight channels: Hadamard's first steps. */
#if defined(__clang__)
#define SWAP(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
typedef int32_t places __attribute__((vector_size(32)));
#define SWAP(x, ...) __builtin_shuffle(x, (places){__VA_ARGS__})
#endif
static inline oct butterflies(oct x, int block) {
  x = SWAP(x, 1, 0, 3, 2, 5, 4, 7, 6) + x * (oct){1, -1, 1, -1, 1, -1, 1, -1};
  if (block > 2) x = SWAP(x, 2, 3, 0, 1, 6, 7, 4, 5) + x * (oct){1, 1, -1, -1, 1, 1, -1, -1};
  if (block > 4) x = SWAP(x, 4, 5, 6, 7, 0, 1, 2, 3) + x * (oct){1, 1, 1, 1, -1, -1, -1, -1};
  return x;
}

/* Each block of x (n,) times Hadamard's matrix of signs; n is a multiple of 8 and of the block. */
static void hadamard(float *x, int n, int block) {
  if (block < 16) {
    for (int i = 0; i < n; i += 8) *(oct *)(x + i) = butterflies(*(oct *)(x + i), block);
    return;
  }
  for (int i = 0; i < n; i += 16) {
    oct a = butterflies(*(oct *)(x + i), 8), b = butterflies(*(oct *)(x + i + 8), 8);
    *(oct *)(x + i) = a + b, *(oct *)(x + i + 8) = a - b;
  }
  for (int h = 16; h < block; h *= 2)
    for (int i = 0; i < n; i += 2 * h)
      for (int j = i; j < i + h; j += 8) {
        oct a = *(oct *)(x + j), b = *(oct *)(x + j + h);
        *(oct *)(x + j) = a + b, *(oct *)(x + j + h) = a - b;
      }
}

/* Each block of x (n,) times its own matrix of (n / block, block, block). */
static void multiply_blocks(float *x, int n, int block, const float *stored) {
  float y[512];
  const int columns = block % LANES ? 0 : block;
  for (const float *end = x + n; x < end; x += block, stored += block * block) {
    for (int j = 0; j < columns; j += LANES) {
      vec sum = {};
      for (int i = 0; i < block; i++) sum += splat(x[i]) * *(const vec *)(stored + i * block + j);
      *(vec *)(y + j) = sum;
    }
    if (!columns) {
      memset(y, 0, 4 * block);
      for (int i = 0; i < block; i++)
        for (int j = 0; j < block; j++) y[j] += x[i] * stored[i * block + j];
    }
    memcpy(x, y, 4 * block);
  }
}
#endif
