// The vectors of AVX-512 for attention over the paged cache.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Lanes {
  using F = __m512;
  struct Bfloat16 {
    uint16_t bits;
  };
  struct Float16 {
    uint16_t bits;
  };
  static constexpr int WIDTH = 16, ROWS = 4, MAX_WIDTH = 256;

  static F set(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static float highest_of(F x) { return _mm512_reduce_max_ps(x); }
  static float sum_of(F x) { return _mm512_reduce_add_ps(x); }
  static F first(int64_t count, F x, F otherwise) {
    const __mmask16 chosen = count >= WIDTH ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
    return _mm512_mask_blend_ps(chosen, otherwise, x);
  }
  // 2^x for whole numbers from -127 (which gives 0) to 0.
  static F power_of_two(F x) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
  }

  template <bool PART> static F load(const float *p) {
    return PART ? _mm512_maskz_loadu_ps(0xff, p) : _mm512_loadu_ps(p);
  }
  template <bool PART> static __m256i load_16_bits(const void *p) {
    return PART ? _mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i *>(p)))
                : _mm256_loadu_si256(static_cast<const __m256i *>(p));
  }
  template <bool PART> static F load(const Bfloat16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16_bits<PART>(p)), 16));
  }
  template <bool PART> static F load(const Float16 *p) { return _mm512_cvtph_ps(load_16_bits<PART>(p)); }
  template <bool PART> static F load(const int8_t *p) {
    const __m128i codes = PART ? _mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))
                               : _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
  }
  template <bool PART = false> static void store(float *p, F x) {
    if (PART)
      _mm512_mask_storeu_ps(p, 0xff, x);
    else
      _mm512_storeu_ps(p, x);
  }

  // Each vector's lanes added up, in a tree: 4 rows of 4 tokens to 16 numbers.
  template <int M> static void add_up(const F (&sums)[4][4], float (&scores)[4][M], int64_t token) {
    F rows[4];
    for (int r = 0; r < 4; ++r) {
      const F *s = sums[r];
      const F ab = add(_mm512_unpacklo_ps(s[0], s[1]), _mm512_unpackhi_ps(s[0], s[1]));
      const F cd = add(_mm512_unpacklo_ps(s[2], s[3]), _mm512_unpackhi_ps(s[2], s[3]));
      rows[r] = add(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    }
    const F ab = add(_mm512_shuffle_f32x4(rows[0], rows[1], 0x88), _mm512_shuffle_f32x4(rows[0], rows[1], 0xdd));
    const F cd = add(_mm512_shuffle_f32x4(rows[2], rows[3], 0x88), _mm512_shuffle_f32x4(rows[2], rows[3], 0xdd));
    const F all = add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    _mm_storeu_ps(scores[0] + token, _mm512_extractf32x4_ps(all, 0));
    _mm_storeu_ps(scores[1] + token, _mm512_extractf32x4_ps(all, 1));
    _mm_storeu_ps(scores[2] + token, _mm512_extractf32x4_ps(all, 2));
    _mm_storeu_ps(scores[3] + token, _mm512_extractf32x4_ps(all, 3));
  }
};

} // namespace

#include "paged_attention.h"
