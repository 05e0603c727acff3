/* What one core of this machine can do at most: multiply-adds in registers, and reading memory.
 *
 * Twelve chains of multiply-adds do not wait for each other, and neither do eight of additions.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

enum { CHAINS = 12, LANES = 8 };

#ifdef __AVX512F__
enum { FLOATS = 16 };
#else
enum { FLOATS = 8 };
#endif
typedef float Floats __attribute__((vector_size(4 * FLOATS)));
typedef int32_t Whole __attribute__((vector_size(4 * FLOATS)));

static volatile float sink;

/* Multiply-adds made in `rounds` rounds of float32. */
int64_t floats(int64_t rounds) {
  Floats chain[CHAINS], factor = {0}, term = {0};
  for (int i = 0; i < CHAINS; i++) chain[i] = factor + (float)i;
  factor += 0.999f, term += 1e-3f;
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * factor + term;
  }
  for (int i = 0; i < CHAINS; i++) sink += chain[i][0];
  return rounds * CHAINS * FLOATS;
}

/* Of 8-bit integers: by VNNI where the CPU has it, else as AVX2 makes them, in three instructions. */
int64_t integers(int64_t rounds) {
  Whole sum[CHAINS] = {0};
  volatile int32_t start = 0x01010101;
#if defined(__AVX512VNNI__)
  const __m512i a = _mm512_set1_epi32(start), b = _mm512_set1_epi32(start);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) {
      sum[i] = (Whole)_mm512_dpbusd_epi32((__m512i)sum[i], a, b);
      __asm__ volatile("" : "+v"(sum[i]));
    }
  }
  const int64_t made = 64;
#elif defined(__AVX2__)
  __m256i a = _mm256_set1_epi32(start), b = a, ones = _mm256_set1_epi16(1);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) {
      __asm__ volatile("" : "+x"(a));
      const __m256i pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
      ((__m256i *)sum)[i] = _mm256_add_epi32(((__m256i *)sum)[i], pairs);
    }
  }
  const int64_t made = 32;
#else
  const int64_t made = 0;
#endif
  for (int i = 0; i < CHAINS; i++) sink += (float)sum[i][0];
  return rounds * CHAINS * made;
}

/* Of bfloat16 by vdpbf16ps; 0 where the CPU has no such instruction. */
int64_t bfloats(int64_t rounds) {
#ifdef __AVX512BF16__
  __m512 sum[CHAINS] = {0};
  volatile int32_t start = 0x3f803f80; /* 1, 1 */
  const __m512bh a = (__m512bh)_mm512_set1_epi32(start);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) {
      sum[i] = _mm512_dpbf16_ps(sum[i], a, a);
      __asm__ volatile("" : "+v"(sum[i]));
    }
  }
  for (int i = 0; i < CHAINS; i++) sink += sum[i][0];
  return rounds * CHAINS * 32;
#else
  (void)rounds;
  return 0;
#endif
}

/* Reads `bytes` from `from`, `times` times one after the other; the rest of whole lines is left. */
int64_t reading(const float *from, int64_t bytes, int64_t times) {
  const int64_t step = LANES * FLOATS, n = bytes / 4 / step * step;
  Floats sum[LANES] = {0};
  for (int64_t t = 0; t < times; t++) {
    for (int64_t at = 0; at < n; at += step) {
#pragma GCC unroll 8
      for (int i = 0; i < LANES; i++) sum[i] += *(const Floats *)(from + at + i * FLOATS);
    }
    __asm__ volatile("" ::: "memory");
  }
  for (int i = 0; i < LANES; i++) sink += sum[i][0];
  return 4 * n * times;
}
