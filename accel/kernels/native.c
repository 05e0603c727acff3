/* One query of the denoising transformer under a cache plan, in float32.
 *
 * native.py packs the weights, writes the program and checks the results against torch. Every sum
 * is taken in an order that depends on the layer alone, so a row's bits do not depend on the batch.
 */
#include "calls.h"

enum { COMPUTE, OPEN, CLOSE, REUSE, BIAS, ATTEND, END, DECIDE }; /* instructions */
enum { DELTA, PROBE, BEFORE };                                    /* slots of a deciding program */
enum { SELF, CROSS, FEED };                                       /* sites */
enum { SAMPLER = 8 };                                             /* columns of a sampler */
enum { KEY_COST = 8 }; /* of a key's channel in attention, in multiply-adds */

typedef struct {
  int32_t op, layer;
  float eps;
  const float *norm_weight, *norm_bias;
  Linear in, out;
} Site;

typedef struct {
  int32_t norm_probe, accumulates;
  double limit, most;
  const double *rescale;     /* 5 coefficients, the highest power first */
  const double *time_change; /* (steps, 2): the time token's |m - m'| and |m'| */
  const int32_t *always;     /* (steps,) */
} Rule;

typedef struct {
  int32_t dim, heads, hidden, live, lead, width, memory, layers, batch, steps, n_sites;
  int32_t observed, observed_from; /* in-painting: steps, or 0; columns that are actions */
  const int32_t *sees, *sees_memory; /* (tokens,) how many leading keys a token attends to */
  const Site *sites;
  Linear embed, head;
  float eps;
  const float *norm_weight, *norm_bias;
  const float *position;    /* (tokens, dim) */
  const float *time_tokens; /* (steps, dim), the leading token of the encoder-only form */
  const float *time_keys;   /* (steps, 2, layers, heads, dim / heads) */
  const int32_t *program;
  const float *coefficients, *biases; /* of REUSE; (n, tokens, dim) of BIAS */
  const float *sampler;               /* (steps, SAMPLER), of in_x, in_out, x0, x, out, sigma and the last two x0 */
  float clip;                         /* negative: none */
  int32_t multistep;                  /* whether a step reads the x0 of earlier ones */
  const Rule *rule;                   /* of DECIDE; batch is 1 */
} Net;

typedef struct {
  int rows, ld, ldh; /* of one run: rows of the stream, leading dimensions */
  float *stream, *normed, *wide, *mixed, *score, *slots, *keys, *codes, *last;
  Work *work;
} Scratch;

static int64_t stream_floats(const Net *n) {
  return (int64_t)n->batch * (n->live + n->lead) * padded(n->dim);
}

static inline int most(int a, int b) { return a > b ? a : b; }

/* Columns of the widest linear's result, the head's among them. */
static int wide_columns(const Net *n) {
  return padded(most(most(3 * n->dim, n->hidden), n->head.outputs));
}

/* Keys of the longest attention. */
static int score_floats(const Net *n) { return padded(most(n->live + n->lead, n->memory)); }

/* Floats of the linear that needs most for its rounded inputs. */
static int64_t code_floats(const Net *n, int64_t rows) {
  const int64_t ends[] = {linear_floats(&n->embed, rows), linear_floats(&n->head, rows)};
  int64_t floats = ends[0] > ends[1] ? ends[0] : ends[1];
  for (const Site *u = n->sites; u < n->sites + n->n_sites; u++) {
    const int64_t in = linear_floats(&u->in, rows), out = linear_floats(&u->out, rows);
    floats = in > floats ? in : floats, floats = out > floats ? out : floats;
  }
  return floats;
}

/* Floats that `query` needs for its scratch, `slots` stored values among them. */
int64_t scratch_floats(const Net *n, int32_t slots) {
  int64_t rows = (int64_t)n->batch * (n->live + n->lead);
  return stream_floats(n) * (3 + slots) + rows * wide_columns(n) + 2 * score_floats(n) +
         (int64_t)2 * n->layers * n->batch * n->memory * n->dim + code_floats(n, rows) +
         2 * (int64_t)n->batch * n->live * n->width;
}

typedef struct {
  const Net *n;
  const Site *u;
  const Scratch *w;
} Attention;

/* Heads `from` to `to`, of the batch's rows one after another. */
static void heads(const void *what, int from, int to, int who) {
  const Net *n = ((const Attention *)what)->n;
  const Site *u = ((const Attention *)what)->u;
  const Scratch *w = ((const Attention *)what)->w;
  const int tokens = n->live + n->lead, d = n->dim / n->heads;
  const int64_t half = (int64_t)n->layers * n->batch * n->memory * n->dim;
  float *score = w->score + who * score_floats(n);
  for (int i = from; i < to; i++) {
    const int b = i / n->heads, h = i % n->heads;
    const float *q = w->wide + (int64_t)b * tokens * w->ldh + h * d;
    float *y = w->mixed + (int64_t)b * tokens * w->ld + h * d;
    if (u->op == SELF) {
      attend(tokens, d, q, w->ldh, q + n->dim, w->ldh, q + 2 * n->dim, w->ldh, n->sees, y, w->ld,
             score);
    } else {
      const float *k = w->keys + (((int64_t)u->layer * n->batch + b) * n->heads + h) * n->memory * d;
      attend(tokens, d, q, w->ldh, k, d, k + half, d, n->sees_memory, y, w->ld, score);
    }
  }
}

/* Rows through a layer, (rows, inputs) -> (rows, padded outputs). */
static void through(const Linear *l, int rows, const float *x, int ldx, float *y, int ldy, int then,
                    const Scratch *w) {
  apply(w->work, l, &(Rows){1, rows, x, 0, ldx, y, 0, ldy, then}, w->codes);
}

static void site(const Net *n, const Site *u, const Scratch *w) {
  layer_norm(w->rows, n->dim, w->stream, w->ld, u->norm_weight, u->norm_bias, u->eps, w->normed,
             w->ld);
  through(&u->in, w->rows, w->normed, w->ld, w->wide, w->ldh, u->op == FEED ? GELU : STORE, w);
  if (u->op == FEED) {
    through(&u->out, w->rows, w->wide, w->ldh, w->stream, w->ld, ADD, w);
    return;
  }
  const int keys = u->op == SELF ? n->live + n->lead : n->memory;
  const Attention what = {n, u, w};
  share(w->work, heads, &what, n->batch * n->heads, (int64_t)w->rows * keys * n->dim * KEY_COST);
  through(&u->out, w->rows, w->mixed, w->ld, w->stream, w->ld, ADD, w);
}

static void embed(const Net *n, int s, const float *x, const Scratch *w) {
  const int tokens = n->live + n->lead;
  for (int b = 0; b < n->batch; b++) {
    float *h = w->stream + (int64_t)b * tokens * w->ld;
    if (n->lead) memcpy(h, n->time_tokens + (int64_t)s * n->dim, 4 * n->dim);
    through(&n->embed, n->live, x + (int64_t)b * n->live * n->width, n->width, h + n->lead * w->ld,
            w->ld, STORE, w);
    for (int t = 0; t < tokens; t++)
      for (int i = 0; i < n->dim; i++) h[t * w->ld + i] += n->position[t * n->dim + i];
  }
}

/* One step of the sampler, see SamplerTable in policies/sampling/table.py; `last` has the last two x0.
 *
 * Which product of a sum of two is rounded is said here: compilers choose by the vector width.
 */
static void sample(const Net *n, int s, float *x, const float *out, int ldo, const float *noise,
                   float *last) {
  const float *c = n->sampler + SAMPLER * s;
  const int64_t size = (int64_t)n->batch * n->live * n->width;
  for (int r = 0; r < n->batch * n->live; r++)
    for (int i = 0; i < n->width; i++) {
      const int64_t at = (int64_t)r * n->width + i;
      float now = x[at], o = out[r * ldo + i], x0 = fmaf(c[0], now, c[1] * o);
      if (n->clip >= 0) x0 = x0 > n->clip ? n->clip : x0 < -n->clip ? -n->clip : x0;
      float next = c[2] * x0;
      if (c[3] != 0) next = fmaf(c[3], now, next);
      if (c[4] != 0) next = fmaf(c[4], o, next);
      if (c[6] != 0) next = fmaf(c[6], last[at], next);
      if (c[7] != 0) next = fmaf(c[7], last[size + at], next);
      x[at] = c[5] != 0 ? fmaf(c[5], noise[at], next) : next;
      if (n->multistep) last[size + at] = last[at], last[at] = x0;
    }
}

/* Replace a part of the actions by known ones, see skipstep/holding.py. */
static void hold(const Net *n, float *x, const float *known, const float *weight) {
  const int actions = n->observed_from;
  for (int64_t r = 0; r < (int64_t)n->batch * n->live; r++)
    for (int i = 0; i < actions; i++)
      x[r * n->width + i] =
          fmaf(weight[r], known[r * actions + i], (1 - weight[r]) * x[r * n->width + i]);
}

static void inpaint(const Net *n, float *x, const float *obs) {
  const int known = n->width - n->observed_from;
  for (int b = 0; b < n->batch; b++)
    for (int t = 0; t < n->observed; t++)
      memcpy(x + ((int64_t)b * n->live + t) * n->width + n->observed_from,
             obs + ((int64_t)b * n->observed + t) * known, 4 * known);
}

/* The time token's keys and values of a step, for every row of the batch. */
static void set_time(const Net *n, int s, float *keys) {
  const int d = n->dim / n->heads;
  const float *from = n->time_keys + (int64_t)s * 2 * n->layers * n->dim;
  for (int l = 0; l < 2 * n->layers; l++)
    for (int b = 0; b < n->batch; b++)
      for (int h = 0; h < n->heads; h++)
        memcpy(keys + (((int64_t)l * n->batch + b) * n->heads + h) * n->memory * d,
               from + ((int64_t)l * n->heads + h) * d, 4 * d);
}

/* Whether this step's blocks are computed, see decisions.py; `sum` is kept. */
static int decide(const Net *n, int s, const Scratch *w, int64_t size, double *sum) {
  const Site *u = n->sites;
  const Rule *rule = n->rule;
  const float *now = w->slots + PROBE * size;
  float *before = w->slots + BEFORE * size;
  double change = rule->time_change[2 * s], extent = rule->time_change[2 * s + 1], rescaled = 0;
  if (rule->norm_probe) {
    now = w->normed;
    layer_norm(w->rows, n->dim, w->stream, w->ld, u->norm_weight, u->norm_bias, u->eps, w->normed,
               w->ld);
  }
  for (int r = 0; r < w->rows; r++)
    for (int i = r * w->ld; i < r * w->ld + n->dim; i++) {
      change += fabsf(now[i] - before[i]);
      extent += fabsf(before[i]);
    }
  const double d = change / extent;
  for (int i = 0; i < 5; i++) rescaled = rescaled * d + rule->rescale[i];
  if (rescaled < 0) rescaled = 0; /* NaN stays, and computes */
  if (d > rule->most) rescaled = INFINITY;
  *sum = (rule->accumulates ? *sum : 0) + rescaled;
  const int go = rule->always[s] || !(*sum < rule->limit);
  if (go) *sum = 0;
  if (go || rule->accumulates) memcpy(before, now, 4 * size);
  return go;
}

/* Denoise x (batch, live, width) in place.
 *
 * trace: (steps,) 1 where DECIDE let the step be computed.
 * keys: (2, layers, batch, heads, memory, dim / heads) of this query; noise: (steps, batch, live,
 * width); obs: (batch, observed, width - observed_from) for in-painting.
 * helped: whether another thread may take columns; known: (steps, batch, live, observed_from) and
 * weight (batch, live) of actions that are held, or null.
 */
void query(const Net *n, float *x, const float *keys, const float *noise, const float *obs,
           float *scratch, int32_t *trace, int32_t helped, const float *known,
           const float *weight) {
  const int64_t size = stream_floats(n), kv = (int64_t)2 * n->layers * n->batch * n->memory * n->dim;
  const int64_t rows = (int64_t)n->batch * (n->live + n->lead);
  Work work = begin(helped);
  Scratch w = {.rows = (int)rows, .ld = padded(n->dim), .ldh = wide_columns(n), .work = &work};
  w.stream = scratch, w.normed = w.stream + size, w.mixed = w.normed + size;
  w.wide = w.mixed + size, w.score = w.wide + rows * w.ldh, w.keys = w.score + 2 * score_floats(n);
  w.codes = w.keys + kv, w.last = w.codes + code_floats(n, rows);
  w.slots = w.last + 2 * (int64_t)n->batch * n->live * n->width;
  if (kv) memcpy(w.keys, keys, 4 * kv);
  const int32_t *p = n->program;
  const float *c = n->coefficients;
  double sum = 0;
  for (int s = 0; s < n->steps; s++, p++) {
    settle(&work);
    if (n->observed) inpaint(n, x, obs);
    embed(n, s, x, &w);
    for (; *p != END; p += 2) {
      float *slot = w.slots + p[1] * size, *h = w.stream;
      const float *bias = n->biases + (int64_t)p[1] * (n->live + n->lead) * n->dim;
      switch (*p) {
        case COMPUTE: site(n, n->sites + p[1], &w); break;
        case ATTEND: set_time(n, s, w.keys); break;
        case OPEN: memcpy(slot, h, 4 * size); break;
        case CLOSE: for (int64_t i = 0; i < size; i++) slot[i] = h[i] - slot[i]; break;
        case DECIDE: /* skips p[1] words unless the step is computed */
          trace[s] = decide(n, s, &w, size, &sum);
          if (!trace[s]) {
            for (int64_t i = 0; i < size; i++) h[i] += w.slots[DELTA * size + i];
            p += p[1];
          }
          break;
        case REUSE: {
          const float a = *c++;
          for (int64_t i = 0; i < size; i++) h[i] += a * slot[i];
          break;
        }
        case BIAS:
          for (int64_t r = 0; r < rows; r++)
            for (int i = 0; i < n->dim; i++)
              h[r * w.ld + i] += bias[r % (n->live + n->lead) * n->dim + i];
      }
    }
    layer_norm(w.rows, n->dim, w.stream, w.ld, n->norm_weight, n->norm_bias, n->eps, w.normed, w.ld);
    for (int b = 0; b < n->batch; b++)
      through(&n->head, n->live, w.normed + ((int64_t)b * (n->live + n->lead) + n->lead) * w.ld, w.ld,
              w.wide + (int64_t)b * n->live * w.ldh, w.ldh, STORE, &w);
    sample(n, s, x, w.wide, w.ldh, noise + (int64_t)s * n->batch * n->live * n->width, w.last);
    if (known) hold(n, x, known + (int64_t)s * n->batch * n->live * n->observed_from, weight);
  }
  if (n->observed) inpaint(n, x, obs);
  end(&work);
}
