/* A second thread for a query of one row: it takes pieces of a layer's columns, and sleeps between
 * queries.
 *
 * Who asks posts a job, a function over pieces 0 to n, and takes pieces from the front while the
 * helper takes them from the back. Both take by exchanging one word, the ticket. So work that nobody
 * has begun is waited for by nobody: without the helper, or while it is asleep or descheduled, the
 * other one does all of it. Only what the helper has begun is waited for. Where that takes long, the
 * call goes on alone, and for REPAY times as long as it waited: on a machine that others use,
 * waiting costs a query 1 / REPAY of its time at most. Who computes a piece changes none of its bits.
 */
#ifndef SKIPSTEP_HELPER_H
#define SKIPSTEP_HELPER_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getcpu */
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#ifndef SKIPSTEP_LEAST
#define SKIPSTEP_LEAST 100000 /* multiply-adds: with fewer, dividing costs more than it saves */
#endif

enum {
  SPIN_NS = 50000,     /* the helper looks for work so long before it sleeps */
  LONG_NS = 20000,     /* a wait that is no part of dividing the work */
  CROWD_NS = 100000,   /* what waking the helper costs where it has no CPU of its own */
  REPAY = 32,          /* query time without the helper, in waits */
  LOOKS = 64,          /* between two looks at the clock */
  MOST_PIECES = 65535, /* of a job, of which the ticket has 16 bits */
  LEAST = SKIPSTEP_LEAST,
};

typedef void (*Pieces)(const void *what, int from, int to, int who); /* who: 1 is the helper */

typedef struct {
  int mine;      /* the helper is this call's, and no other one's */
  int helps;     /* and is asked */
  int64_t since; /* when what this call owes was last counted */
} Work;

static struct {
  _Alignas(128) uint64_t ticket; /* number of the job (32 bits), first and end (16) of what is left */
  _Alignas(128) int32_t done;    /* pieces of the job that the helper has finished */
  _Alignas(128) Pieces run;      /* the job; who takes a piece of it may read these */
  const void *what;
  uint32_t rounding;        /* of the asking thread: denormals are zero there or not */
  int32_t cpu;              /* where the asking thread runs */
  int32_t asleep, crowded;  /* crowded: the helper was on that CPU, where it only takes its time */
  int32_t taken;            /* by a call */
  int32_t state, watches;   /* state: 1 there is a thread, -1 there can be none; watches for forks */
  int64_t owed_ns;          /* query time to pass before the helper is asked again */
  int64_t pieces, of_helper, left, wakes; /* counted for tests and benchmarks */
  pthread_mutex_t lock;
  pthread_cond_t woken;
} helper = {.lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};

#define READ(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define WRITE(x, value) __atomic_store_n(&(x), value, __ATOMIC_RELEASE)

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void breathe(void) {
#if defined(__SSE__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int32_t cpu_now(void) {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

/* Take a quarter of what is left of the job: from the front, or, as the helper, from the back. */
static int take(int who, int *from, int *to) {
  uint64_t now = READ(helper.ticket), next;
  do {
    const int first = now >> 16 & 0xffff, end = now & 0xffff, n = (end - first + 3) / 4;
    if (first >= end) return 0;
    *from = who ? end - n : first, *to = *from + n;
    next = who ? now - n : now + ((uint64_t)n << 16);
  } while (!__atomic_compare_exchange_n(&helper.ticket, &now, next, 1, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE));
  return 1;
}

/* Until the next job. One that was posted meanwhile is done without the helper. */
static void rest(void) {
  pthread_mutex_lock(&helper.lock);
  WRITE(helper.asleep, 1);
  while (READ(helper.asleep)) pthread_cond_wait(&helper.woken, &helper.lock);
  pthread_mutex_unlock(&helper.lock);
}

/* Never waits: the lock is the helper's while it falls asleep, or wakes up. */
static void wake(void) {
  if (pthread_mutex_trylock(&helper.lock)) return;
  WRITE(helper.asleep, 0);
  pthread_cond_signal(&helper.woken);
  pthread_mutex_unlock(&helper.lock);
  helper.wakes++;
}

static void *help(void *nothing) {
  for (int from, to;;) {
    int64_t until = 0;
    for (int looks = 1; !take(1, &from, &to); looks++) {
      breathe();
      if (looks % LOOKS) continue;
      const int crowded = READ(helper.cpu) == cpu_now() && cpu_now() >= 0;
      const int64_t now = now_ns();
      if (!until) until = now + SPIN_NS;
      if (crowded) WRITE(helper.crowded, 1);
      if (crowded || now > until) rest(), until = 0;
    }
#if defined(__SSE__)
    if (_mm_getcsr() != helper.rounding) _mm_setcsr(helper.rounding);
#endif
    helper.run(helper.what, from, to, 1);
    __atomic_fetch_add(&helper.done, to - from, __ATOMIC_RELEASE);
  }
  return nothing;
}

/* In a forked process: there is no helper, whatever the other process was doing with its own. */
static void forget(void) {
  helper.ticket = 0;
  helper.done = helper.asleep = helper.crowded = helper.taken = 0;
  helper.state = 0, helper.owed_ns = 0;
  pthread_mutex_init(&helper.lock, 0);
  pthread_cond_init(&helper.woken, 0);
}

/* Whether there is a helper: made when it is first needed; signals are other threads' business. */
static int exists(void) {
  if (!helper.state) {
    sigset_t all, before;
    pthread_t thread;
    if (!helper.watches) helper.watches = 1, pthread_atfork(0, 0, forget);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    helper.state = pthread_create(&thread, 0, help, 0) ? -1 : 1;
    pthread_sigmask(SIG_SETMASK, &before, 0);
    if (helper.state > 0) pthread_detach(thread);
  }
  return helper.state > 0;
}

/* Time has passed; whether the helper is asked from here on. */
static void settle(Work *w) {
  if (!w->mine || (w->helps && !helper.owed_ns)) return;
  const int64_t now = now_ns();
  helper.owed_ns -= now - w->since;
  if (helper.owed_ns < 0) helper.owed_ns = 0;
  w->since = now;
  w->helps = !helper.owed_ns && exists();
}

/* A call begins; whether it may have the helper is `wanted`, and where another has it, it has not. */
static Work begin(int wanted) {
  Work w = {0};
  if (!wanted || __atomic_exchange_n(&helper.taken, 1, __ATOMIC_ACQUIRE)) return w;
  w.mine = 1, w.since = now_ns();
  w.helps = !helper.owed_ns && exists();
  WRITE(helper.cpu, cpu_now());
  WRITE(helper.crowded, 0);
#if defined(__SSE__)
  helper.rounding = _mm_getcsr();
#endif
  return w;
}

static void end(Work *w) {
  settle(w);
  if (w->mine) WRITE(helper.taken, 0);
}

/* Go on alone, until so much time is worth it. */
static void leave(Work *w, int64_t lost_ns) {
  w->helps = 0, w->since = now_ns();
  helper.owed_ns = REPAY * lost_ns;
  helper.left++;
}

/* Wait for the pieces that the helper has begun; while it is descheduled, leave the CPU to others. */
static void await(Work *w, int theirs) {
  int64_t since = 0, now = 0;
  for (int looks = 1; READ(helper.done) < theirs; looks++) {
    breathe();
    if (looks % LOOKS) continue;
    now = now_ns();
    if (!since) since = now;
    if (now - since > LONG_NS) sched_yield();
  }
  if (now - since > LONG_NS) leave(w, now_ns() - since);
}

/* Do pieces 0 to n, which cost so many multiply-adds, with the helper where there is one. */
static void share(Work *w, Pieces run, const void *what, int n, int64_t cost) {
  if (w->helps && READ(helper.crowded)) {
    WRITE(helper.crowded, 0);
    leave(w, CROWD_NS);
  }
  if (!w->helps || cost < LEAST || n < 2 || n > MOST_PIECES) {
    run(what, 0, n, 0);
    return;
  }
  const uint64_t job = (READ(helper.ticket) >> 32) + 1;
  helper.run = run, helper.what = what;
  __atomic_store_n(&helper.done, 0, __ATOMIC_RELAXED);
  WRITE(helper.ticket, job << 32 | (uint64_t)n);
  if (READ(helper.asleep)) wake();
  int from, to, mine = 0;
  for (; take(0, &from, &to); mine += to - from) run(what, from, to, 0);
  helper.pieces += n, helper.of_helper += n - mine;
  if (mine < n) await(w, n - mine);
}

/* Pieces of jobs, those of the helper, how often it was left and woken since the library was loaded. */
void helper_counts(int64_t *counts) {
  counts[0] = helper.pieces, counts[1] = helper.of_helper;
  counts[2] = helper.left, counts[3] = helper.wakes;
}
#endif
