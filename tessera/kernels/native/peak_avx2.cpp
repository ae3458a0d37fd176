// The most that this processor multiplies in float32: AVX2's products on registers alone.
#include "export.h"
#include "parallel.h"

#include <cstdint>
#include <immintrin.h>

// `rounds` rounds of 12 independent sums in each thread; 12 * 8 products a round. The result keeps them alive.
EXPORT int float32_peak_avx2(int64_t rounds, int64_t threads) {
  int last = 0;
  parallel(static_cast<int>(threads), [&](int index, int) {
    __m256 sums[12];
    for (int i = 0; i < 12; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
    __m256 left = _mm256_set1_ps(1.0f), right = left;
    for (int64_t round = 0; round < rounds; ++round) {
      __asm__ volatile("" : "+x"(left), "+x"(right)); // not to be computed once for all rounds
#pragma GCC unroll 12
      for (int i = 0; i < 12; ++i) sums[i] = _mm256_fmadd_ps(left, right, sums[i]);
    }
    for (int i = 1; i < 12; ++i) sums[0] = _mm256_add_ps(sums[0], sums[i]);
    if (index == 0) last = _mm256_cvtss_f32(sums[0]) > 0;
  });
  return last;
}
