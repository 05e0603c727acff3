/* A call of a network as operations one after another: what UNets and DiTs run as. */
#ifndef SKIPSTEP_CALLS_H
#define SKIPSTEP_CALLS_H
#include "dit.h"

/* Operations in their order; `time` is what the step says to every row, `seen` what a row has seen.
 * helped: whether another thread may take columns. */
void operate(const Operation *o, int32_t n, const float *time, const float *seen,
             int64_t seen_stride, int32_t helped) {
  Work work = begin(helped);
  for (const Operation *last = o + n; o < last; o++) switch (o->kind) {
      case CONVOLVE: convolve(&work, o); break;
      case NORM: norm(o, time, seen, seen_stride); break;
      case MODULATE: modulate(o, time, seen, seen_stride); break;
      case GATE: gate(o, time, seen, seen_stride); break;
      case TURN: turn(o); break;
      case MIX: mix(o); break;
      case CURVE: curve(o); break;
      default: pass(o);
    }
  end(&work);
}
#endif
