/* The operations of a DiT's blocks, on rows of channels, token by token.
 *
 * What time and observations say to a branch are three rows: a shift, a scale and a gate.
 */
#ifndef SKIPSTEP_DIT_H
#define SKIPSTEP_DIT_H
#include "unet.h" /* before others */
#include "attention.h"

/* 1 / (1 + e^-x). */
static inline vec sigmoid(vec x) {
  const ivec positive = x > splat(0.0f);
  const vec e = exp_negative(choose(positive, -x, x));
  return choose(positive, splat(1.0f), e) / (splat(1.0f) + e);
}

/* GELU by tanh, as x times a sigmoid of twice its argument. */
static inline vec gelu_tanh(vec x) {
  return x * sigmoid(splat(1.5957691216f) * (x + splat(0.044715f) * x * x * x));
}

/* The row number `which` of what is said to row b of the batch, to `row`. */
static void told(const Operation *o, int which, const float *time, const float *seen, float *row) {
  const int wide = padded(o->channels);
  const int64_t at = o->told + (int64_t)which * wide;
  for (int c = 0; c < wide; c += LANES)
    *(vec *)(row + c) = *(const vec *)(time + at + c) + *(const vec *)(seen + at + c);
}

/* The norm of each token, scaled and shifted. */
static void modulate(const Operation *o, const float *time, const float *seen, int64_t seen_stride) {
  const int wide = padded(o->channels);
  float *shift = o->scratch, *scale = shift + wide;
  for (int b = 0; b < o->batch; b++) {
    told(o, 0, time, seen + b * seen_stride, shift);
    told(o, 1, time, seen + b * seen_stride, scale);
    for (int c = 0; c < wide; c += LANES) *(vec *)(scale + c) += splat(1.0f);
    layer_norm(o->length, o->channels, o->from.at + b * o->from.stride, o->from.ld, scale, shift,
               o->eps, o->to.at + b * o->to.stride, o->to.ld);
  }
}

static void gate(const Operation *o, const float *time, const float *seen, int64_t seen_stride) {
  for (int b = 0; b < o->batch; b++) {
    told(o, 2, time, seen + b * seen_stride, o->scratch);
    for (int r = 0; r < o->length; r++) {
      const float *x = o->from.at + b * o->from.stride + (int64_t)r * o->from.ld;
      float *y = o->to.at + b * o->to.stride + (int64_t)r * o->to.ld;
      for (int c = 0; c < padded(o->channels); c += LANES)
        *(vec *)(y + c) = *(const vec *)(o->scratch + c) * *(const vec *)(x + c);
    }
  }
}

/* Queries and keys turned by their place, in place; weight and bias: (length, half a head). */
static void turn(const Operation *o) {
  const int half = o->channels / o->groups / 2;
  for (int b = 0; b < o->batch; b++)
    for (int r = 0; r < o->length; r++) {
      float *row = o->to.at + b * o->to.stride + (int64_t)r * o->to.ld;
      const float *cosine = o->weight + r * half, *sine = o->bias + r * half;
      for (int h = 0; h < 2 * o->groups; h++, row += 2 * half)
        for (int i = 0; i < half; i++) {
          const float first = row[i], second = row[half + i];
          row[i] = first * cosine[i] - second * sine[i];
          row[half + i] = second * cosine[i] + first * sine[i];
        }
    }
}

/* Attention of all tokens to each other, from rows of queries, keys and values side by side. */
static void mix(const Operation *o) {
  const int dim = o->channels, width = dim / o->groups;
  int32_t *all = (int32_t *)o->scratch;
  float *score = o->scratch + o->length;
  for (int r = 0; r < o->length; r++) all[r] = o->length;
  for (int b = 0; b < o->batch; b++)
    for (int h = 0; h < o->groups; h++) {
      const float *q = o->from.at + b * o->from.stride + h * width;
      attend(o->length, width, q, o->from.ld, q + dim, o->from.ld, q + 2 * dim, o->from.ld, all,
             o->to.at + b * o->to.stride + h * width, o->to.ld, score);
    }
}

/* GELU, or (scales) SiLU, in place. */
static void curve(const Operation *o) {
  for (int b = 0; b < o->batch; b++)
    for (int r = 0; r < o->length; r++) {
      float *row = o->to.at + b * o->to.stride + (int64_t)r * o->to.ld;
      for (int c = 0; c < padded(o->channels); c += LANES) {
        const vec x = *(const vec *)(row + c);
        if (o->scales) *(vec *)(row + c) = x * sigmoid(x);
        else *(vec *)(row + c) = gelu_tanh(x);
      }
    }
}
#endif
