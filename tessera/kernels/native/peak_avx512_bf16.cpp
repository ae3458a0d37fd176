// The most that this processor multiplies in bfloat16: products on registers alone, the limit that training is held to.
#include "export.h"
#include "parallel.h"

#include <cstdint>
#include <immintrin.h>

// `rounds` rounds of 16 independent sums in each thread; 16 * 32 products a round. The result keeps them alive.
EXPORT int bfloat16_peak_avx512_bf16(int64_t rounds, int64_t threads) {
  int last = 0;
  parallel(static_cast<int>(threads), [&](int index, int) {
    __m512 sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
    __m512i left = _mm512_set1_epi16(0x3f80), right = left; // ones
    for (int64_t round = 0; round < rounds; ++round) {
      __asm__ volatile("" : "+v"(left), "+v"(right)); // not to be computed once for all rounds
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        sums[i] = _mm512_dpbf16_ps(sums[i], reinterpret_cast<__m512bh>(left), reinterpret_cast<__m512bh>(right));
    }
    for (int i = 1; i < 16; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    if (index == 0) last = static_cast<int>(_mm512_reduce_add_ps(sums[0]) > 0);
  });
  return last;
}
