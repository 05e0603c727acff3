/* The operations of a UNet along time, on rows of channels, position by position.
 *
 * Between positions lie as many zeros as a convolution reaches beyond the ends, so that the taps of
 * a position are one run of memory: a convolution is a linear layer whose rows overlap. The taps of
 * the next stride are the next rows. Every sum is taken in an order that depends on the layer alone.
 */
#ifndef SKIPSTEP_UNET_H
#define SKIPSTEP_UNET_H
#include "linear.h"

enum { CONVOLVE, NORM, COPY, MISH, PLUS };          /* operations, */
enum { MODULATE = PLUS + 1, TURN, MIX, CURVE, GATE }; /* and those of dit.h */

typedef struct {
  float *at;
  int64_t stride; /* between rows of the batch */
  int32_t ld;     /* between positions, or between the rows that a convolution multiplies */
} Place;

typedef struct {
  int32_t kind, batch, length, channels, groups;
  Place from, to, add; /* add: of NORM, what is added at the end; may be null */
  Linear linear;       /* of CONVOLVE */
  float eps;
  const float *weight, *bias; /* of NORM, padded */
  int64_t told;               /* of NORM: where its scales and shifts are in a row, or -1 */
  int32_t scales;             /* whether there are scales, `padded(channels)` before the shifts */
  float *scratch;             /* of NORM: 3 rows of padded(channels); what codes of CONVOLVE need */
} Operation;

/* x tanh(ln(1 + e^x)), as a quotient of polynomials in e^-|x|. */
static inline vec mish(vec x) {
  const ivec positive = x > splat(0.0f);
  const vec a = choose(positive, -x, x), e = choose(a < splat(-87.0f), splat(0.0f), exp_negative(a));
  vec low = e * (e + splat(2.0f)), high = splat(1.0f) + splat(2.0f) * e;
  vec over = choose(positive, high, low);
  vec under = over + choose(positive, splat(2.0f) * e * e, splat(2.0f));
  return x * over / under;
}

/* Means over the positions and channels of a group, to each of its channels. */
static void spread(const Operation *o, float *sums) {
  const int each = o->channels / o->groups;
  for (int g = 0; g < o->groups; g++) {
    float sum = 0;
    for (int c = g * each; c < (g + 1) * each; c++) sum += sums[c];
    sum /= (float)each * o->length;
    for (int c = g * each; c < (g + 1) * each; c++) sums[c] = sum;
  }
}

/* Group norm, Mish, what time and observations say, and the shortcut. */
static void norm(const Operation *o, const float *time, const float *seen, int64_t seen_stride) {
  const int wide = padded(o->channels);
  float *mean = o->scratch, *factor = mean + wide, *square = factor + wide;
  for (int b = 0; b < o->batch; b++) {
    const float *x = o->from.at + b * o->from.stride;
    float *y = o->to.at + b * o->to.stride;
    memset(mean, 0, 4 * 3 * wide);
    for (int r = 0; r < o->length; r++)
      for (int c = 0; c < wide; c += LANES) *(vec *)(mean + c) += *(const vec *)(x + r * o->from.ld + c);
    spread(o, mean);
    for (int r = 0; r < o->length; r++)
      for (int c = 0; c < wide; c += LANES) {
        vec d = *(const vec *)(x + r * o->from.ld + c) - *(const vec *)(mean + c);
        *(vec *)(square + c) += d * d;
      }
    spread(o, square);
    for (int c = 0; c < o->channels; c++) factor[c] = o->weight[c] / sqrtf(square[c] + o->eps);
    const float *told = o->told < 0 ? 0 : time + o->told;
    const float *also = o->told < 0 ? 0 : seen + b * seen_stride + o->told;
    for (int c = 0; c < wide; c += LANES) {
      const vec m = *(const vec *)(mean + c), f = *(const vec *)(factor + c);
      const vec s = *(const vec *)(o->bias + c);
      vec scale = splat(1.0f), shift = splat(0.0f);
      if (told) {
        const int at = o->scales ? wide : 0;
        shift = *(const vec *)(told + at + c) + *(const vec *)(also + at + c);
        if (o->scales) scale = *(const vec *)(told + c) + *(const vec *)(also + c);
      }
      for (int r = 0; r < o->length; r++) {
        vec v = mish((*(const vec *)(x + r * o->from.ld + c) - m) * f + s);
        if (told) v = v * scale + shift;
        if (o->add.at) v += *(const vec *)(o->add.at + b * o->add.stride + (int64_t)r * o->add.ld + c);
        *(vec *)(y + (int64_t)r * o->to.ld + c) = v;
      }
    }
  }
}

/* COPY, MISH or PLUS, position by position. */
static void pass(const Operation *o) {
  for (int b = 0; b < o->batch; b++)
    for (int r = 0; r < o->length; r++) {
      const float *x = o->from.at + b * o->from.stride + (int64_t)r * o->from.ld;
      float *y = o->to.at + b * o->to.stride + (int64_t)r * o->to.ld;
      if (o->kind == COPY) memcpy(y, x, 4 * o->channels);
      else
        for (int c = 0; c < padded(o->channels); c += LANES) {
          const vec v = *(const vec *)(x + c);
          if (o->kind == MISH) *(vec *)(y + c) = mish(v);
          else *(vec *)(y + c) += v;
        }
    }
}

static void convolve(Work *work, const Operation *o) {
  const Place *x = &o->from, *y = &o->to;
  const Rows rows = {o->batch, o->length, x->at, x->stride, x->ld, y->at, y->stride, y->ld, STORE};
  apply(work, &o->linear, &rows, o->scratch);
}
#endif
