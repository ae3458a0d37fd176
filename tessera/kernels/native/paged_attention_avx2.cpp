// Attention over the paged cache for processors with AVX2.
#include <immintrin.h>

#include <cstdint>

#include "export.h"

namespace {

struct Lanes {
  using F = __m256;
  struct Bfloat16 {
    uint16_t bits;
  };
  struct Float16 {
    uint16_t bits;
  };
  static constexpr int WIDTH = 8, ROWS = 2, MAX_WIDTH = 256;

  static F set(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static float highest_of(F x) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_shuffle_ps(most, most, 1)));
  }
  static float sum_of(F x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
  }
  static F first(int64_t count, F x, F otherwise) {
    const int lanes = count >= WIDTH ? WIDTH : static_cast<int>(count);
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i chosen = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), numbers);
    return _mm256_blendv_ps(otherwise, x, _mm256_castsi256_ps(chosen));
  }
  // 2^x for whole numbers from -127 (which gives 0) to 0.
  static F power_of_two(F x) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }

  // A width is a multiple of 8, so no column is ever PART of one.
  template <bool PART> static F load(const float *p) { return _mm256_loadu_ps(p); }
  template <bool PART> static F load(const Bfloat16 *p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  template <bool PART> static F load(const Float16 *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  }
  template <bool PART> static F load(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
  }
  template <bool PART = false> static void store(float *p, F x) { _mm256_storeu_ps(p, x); }

  // Each vector's lanes added up, in a tree: 2 rows of 4 tokens to 8 numbers.
  template <int M> static void add_up(const F (&sums)[2][4], float (&scores)[2][M], int64_t token) {
    F rows[2];
    for (int r = 0; r < 2; ++r) {
      const F *s = sums[r];
      const F ab = add(_mm256_unpacklo_ps(s[0], s[1]), _mm256_unpackhi_ps(s[0], s[1]));
      const F cd = add(_mm256_unpacklo_ps(s[2], s[3]), _mm256_unpackhi_ps(s[2], s[3]));
      rows[r] = add(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    }
    const F all = add(_mm256_permute2f128_ps(rows[0], rows[1], 0x20), _mm256_permute2f128_ps(rows[0], rows[1], 0x31));
    _mm_storeu_ps(scores[0] + token, _mm256_castps256_ps128(all));
    _mm_storeu_ps(scores[1] + token, _mm256_extractf128_ps(all, 1));
  }
};

} // namespace

#include "paged_attention.h"

EXPORT int paged_attention_avx2(const Call *call, int64_t stored, int64_t threads) {
  const int count = static_cast<int>(threads);
  if (stored == FLOAT32) return attend<Plain, float>(*call, count);
  if (stored == BFLOAT16) return attend<Plain, Lanes::Bfloat16>(*call, count);
  if (stored == FLOAT16) return attend<Plain, Lanes::Float16>(*call, count);
  return attend<Plain, int8_t>(*call, count);
}
