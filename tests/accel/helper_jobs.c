/* The helper's protocol by itself, see accel/kernels/helper.h: test_helper.py compiles and runs it. */
#define _GNU_SOURCE
#include <pthread.h>
static int refused; /* threads cannot be made */
static int made(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x) {
  return refused ? 11 : pthread_create(t, a, f, x);
}
#define pthread_create made
#include "helper.h"
#undef pthread_create
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 300, COST = 1 << 30 };
#define REQUIRE(holds) \
  do { \
    if (!(holds)) printf("line %d: " #holds "\n", __LINE__), exit(1); \
  } while (0)

typedef struct {
  int n, times[MOST], of_helper, slow_us; /* slow_us: what the helper takes for a piece */
  uint32_t rounding;
  int blocks_interrupts;
} Job;

static void count(const void *what, int from, int to, int who) {
  Job *job = (Job *)what;
  for (int i = from; i < to; i++) job->times[i]++;
  if (!who) return;
  sigset_t blocked;
  pthread_sigmask(SIG_SETMASK, 0, &blocked);
  job->of_helper += to - from, job->blocks_interrupts = sigismember(&blocked, SIGINT);
#if defined(__SSE__)
  job->rounding = _mm_getcsr();
#endif
  if (job->slow_us) usleep(job->slow_us);
}

static void check(Work *w, Job *job, int n, int slow_us) {
  *job = (Job){.n = n, .slow_us = slow_us};
  share(w, count, job, n, COST);
  for (int i = 0; i < n; i++) REQUIRE(job->times[i] == 1);
}

/* Jobs of all lengths, `least` of them, and on until the helper does something; the last one. */
static Job jobs(int wanted, int least, int slow_us) {
  Job job = {0};
  for (int i = 0; i < least || (wanted && !job.of_helper && i < 1000000); i++) {
    Work w = begin(wanted);
    check(&w, &job, i % MOST + 1, slow_us);
    REQUIRE(w.mine == wanted);
    end(&w);
  }
  return job;
}

static void *others(void *nothing) {
  Job job;
  for (int i = 0; i < 3000; i++) {
    Work w = begin(1);
    for (int j = 0; j < 3; j++) check(&w, &job, i % MOST + 1, 0);
    end(&w);
  }
  return nothing;
}

/* A helper that is held up is waited for, and then left alone until that has been paid for. */
static void held_up(void) {
  Job job;
  int64_t before[4], after[4];
  helper_counts(before);
  for (int i = 0; i < 100000; i++) {
    Work w = begin(1);
    check(&w, &job, MOST, 3000);
    const int helps = w.helps, helped = job.of_helper;
    if (helped) {
      REQUIRE(!helps && helper.owed_ns > REPAY * LONG_NS);
      check(&w, &job, MOST, 0);
      REQUIRE(!job.of_helper);
    }
    end(&w);
    if (helped) break;
  }
  helper_counts(after);
  REQUIRE(after[2] > before[2] && after[1] > before[1]);
  for (int64_t start = now_ns(); helper.owed_ns && now_ns() - start < 20e9;) {
    Work w = begin(1);
    usleep(1000);
    end(&w);
  }
  REQUIRE(!helper.owed_ns);
}

static void forked(void) {
#if defined(__SANITIZE_THREAD__) /* which allows no thread in a forked process */
  return;
#endif
  const pid_t child = fork();
  if (!child) {
    Job job = jobs(1, 100, 0);
    exit(!job.of_helper);
  }
  int status;
  REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
}

int main(int argc, char **argv) {
  Job job = jobs(0, 1000, 0);
  REQUIRE(!job.of_helper && !helper.state);
  if (argc > 1 && !strcmp(argv[1], "refused")) {
    refused = 1;
    for (int i = 0; i < 100; i++) {
      Work w = begin(1);
      check(&w, &job, MOST, 0);
      REQUIRE(!w.helps && !job.of_helper && helper.state < 0);
      end(&w);
    }
    puts("done");
    return 0;
  }
#if defined(__SSE__)
  _mm_setcsr(_mm_getcsr() | 0x8040); /* denormals are zero, for this thread */
#endif
  job = jobs(1, 3000, 0);
  REQUIRE(job.of_helper && job.blocks_interrupts);
#if defined(__SSE__)
  REQUIRE((job.rounding & 0x8040) == 0x8040);
#endif
  held_up();
  forked();
  pthread_t second;
  REQUIRE(!pthread_create(&second, 0, others, 0));
  others(0);
  pthread_join(second, 0);
  forked();
  jobs(1, 100, 0);
  puts("done"); /* and leaves while the helper looks for work */
  return 0;
}
