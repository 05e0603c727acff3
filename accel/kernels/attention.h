/* Norms of rows and attention: what transformers of every kind need besides their layers. */
#ifndef SKIPSTEP_ATTENTION_H
#define SKIPSTEP_ATTENTION_H
#include "vector.h"

static inline float total(oct v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static void layer_norm(int rows, int dim, const float *x, int ldx, const float *w, const float *b,
                       float eps, float *y, int ldy) {
  for (int r = 0; r < rows; r++, x += ldx, y += ldy) {
    oct sum = {}, square = {};
    for (int i = 0; i < dim; i += 8) sum += *(const oct *)(x + i);
    float mean = total(sum) / dim;
    for (int i = 0; i < dim; i += 8) {
      oct d = *(const oct *)(x + i) - mean;
      square += d * d;
    }
    float scale = 1.0f / sqrtf(total(square) / dim + eps);
    for (int i = 0; i < dim; i += 8)
      *(oct *)(y + i) =
          (*(const oct *)(x + i) - mean) * scale * *(const oct *)(w + i) + *(const oct *)(b + i);
  }
}

/* One head of one row of the batch: softmax(q k / sqrt(d)) v over the leading keys of each token. */
static void attend(int tokens, int d, const float *q, int ldq, const float *k, int ldk,
                   const float *v, int ldv, const int32_t *sees, float *y, int ldy, float *score) {
  const float scale = 1.0f / sqrtf((float)d);
  for (int t = 0; t < tokens; t++, q += ldq, y += ldy) {
    int n = sees[t];
    float top = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++) {
      oct s = {};
      for (int i = 0; i < d; i += 8) s += *(const oct *)(q + i) * *(const oct *)(k + j * ldk + i);
      score[j] = total(s) * scale;
      top = score[j] > top ? score[j] : top;
    }
    for (int j = 0; j < padded(n); j++) score[j] = j < n ? score[j] - top : -87.0f;
    for (int j = 0; j < n; j += LANES) *(vec *)(score + j) = exp_negative(*(vec *)(score + j));
    for (int j = 0; j < n; j++) sum += score[j];
    memset(y, 0, 4 * d);
    for (int j = 0; j < n; j++) {
      float p = score[j] / sum;
      for (int i = 0; i < d; i += 8) *(oct *)(y + i) += p * *(const oct *)(v + j * ldv + i);
    }
  }
}
#endif
