// The most that this processor multiplies in 8 bits: VNNI on registers alone, the limit that products are held to.
#include "export.h"
#include "parallel.h"

#include <cstdint>
#include <immintrin.h>

// `rounds` rounds of 16 independent sums in each thread; 16 * 64 products a round. The result keeps them alive.
EXPORT int int8_peak_avx512(int64_t rounds, int64_t threads) {
  int last = 0;
  parallel(static_cast<int>(threads), [&](int index, int) {
    __m512i sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_epi32(i);
    __m512i left = _mm512_set1_epi8(3), right = _mm512_set1_epi8(5);
    for (int64_t round = 0; round < rounds; ++round) {
      __asm__ volatile("" : "+v"(left), "+v"(right)); // not to be computed once for all rounds
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], left, right);
    }
    for (int i = 1; i < 16; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    if (index == 0) last = _mm512_reduce_add_epi32(sums[0]);
  });
  return last;
}
