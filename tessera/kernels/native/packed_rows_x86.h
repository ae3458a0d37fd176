// A product's rows in memory by AVX2 or AVX-512: 32 inputs rounded to 8 bits, and 16 sums stored. Both have the same
// bits.
#pragma once

#include "packed_call.h"

#include <cstring>

#include <immintrin.h>

namespace {

#ifdef __AVX512F__
__m512 load16(const char *from, int64_t dtype) {
  if (dtype == FLOAT32) return _mm512_loadu_ps(from);
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
  if (dtype == FLOAT16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Float32 to bfloat16, half to even; a NaN keeps its top bits and gets one that no rounding can carry away.
__m256i bfloat16_of(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i whole = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(whole, 16));
}

// The first `count` of 16 sums to the outputs.
void store(const float *sums, char *to, int64_t dtype, int64_t count) {
  const __m512 values = _mm512_loadu_ps(sums);
  __m512i out = _mm512_castps_si512(values);
  if (dtype == BFLOAT16) out = _mm512_castsi256_si512(bfloat16_of(values));
  if (dtype == FLOAT16) out = _mm512_castsi256_si512(_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
  if (count < TILE_ROWS)
    std::memcpy(to, &out, count * element_bytes(dtype));
  else if (dtype == FLOAT32)
    _mm512_storeu_si512(to, out);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_castsi512_si256(out));
}

// The largest magnitude over 127 of 32 inputs; codes are their multiples of it, and `sum` adds the codes up. A group
// that is not finite has NaN, so that each sum of its token then is.
float quantize_group(const char *from, int64_t dtype, int8_t *codes, int32_t &sum) {
  const __m512 values[2] = {load16(from, dtype), load16(from + 16 * element_bytes(dtype), dtype)};
  // As whole numbers magnitudes are ordered too, with infinity and NaN above all else.
  const __m512i positive = _mm512_set1_epi32(0x7fffffff);
  const __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(values[0]), positive),
                                           _mm512_and_si512(_mm512_castps_si512(values[1]), positive));
  const float scale = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epu32(largest)))) / 127.0f;
  sum = 0;
  if (!(scale >= 0x1p-126f && scale <= 0x1.fffffep127f)) { // too small to invert, or not finite
    std::memset(codes, 0, GROUP);
    return scale < 0x1p-126f ? scale : __builtin_nanf("");
  }
  const __m512 inverse = _mm512_set1_ps(1.0f / scale);
  __m512i total = _mm512_setzero_si512();
  for (int i = 0; i < 2; ++i) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(values[i], inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(codes) + i, _mm512_cvtsepi32_epi8(whole));
    total = _mm512_add_epi32(total, whole);
  }
  sum = _mm512_reduce_add_epi32(total);
  return scale;
}
#else
__m256 load8(const char *from, int64_t dtype) {
  if (dtype == FLOAT32) return _mm256_loadu_ps(reinterpret_cast<const float *>(from));
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
  if (dtype == FLOAT16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

// Float32 to bfloat16, half to even; a NaN keeps its top bits and gets one that no rounding can carry away.
__m128i bfloat16_of(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

// The first `count` of 16 sums to the outputs.
void store(const float *sums, char *to, int64_t dtype, int64_t count) {
  const __m256 low = _mm256_loadu_ps(sums), high = _mm256_loadu_ps(sums + 8);
  __m256i values[2] = {_mm256_castps_si256(low), _mm256_castps_si256(high)};
  if (dtype == BFLOAT16) values[0] = _mm256_set_m128i(bfloat16_of(high), bfloat16_of(low));
  if (dtype == FLOAT16)
    values[0] = _mm256_set_m128i(_mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT),
                                 _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
  if (count < TILE_ROWS) {
    std::memcpy(to, values, count * element_bytes(dtype));
    return;
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), values[0]);
  if (dtype == FLOAT32) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to) + 1, values[1]);
}

// One group of 32 inputs in 8 bits: returns the scale, writes codes and their sum. A group that holds a NaN or an
// infinity gets the scale NaN, which every sum of its token then is.
float quantize_group(const char *from, int64_t dtype, int8_t *codes, int32_t &sum) {
  __m256 values[4];
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    values[i] = load8(from + 8 * i * element_bytes(dtype), dtype);
    // As whole numbers magnitudes are ordered too, with infinity and NaN above all else.
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(values[i]), _mm256_set1_epi32(0x7fffffff));
    largest = _mm256_max_epu32(largest, magnitude);
  }
  __m128i top = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0x4e));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0xb1));
  const float scale = _mm_cvtss_f32(_mm_castsi128_ps(top)) / 127.0f;
  sum = 0;
  if (!(scale >= 0x1p-126f && scale <= 0x1.fffffep127f)) { // too small to invert, or not finite
    std::memset(codes, 0, GROUP);
    return scale < 0x1p-126f ? scale : __builtin_nanf("");
  }
  const __m256 inverse = _mm256_set1_ps(1.0f / scale);
  __m256i whole[4], total = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], inverse));
    total = _mm256_add_epi32(total, whole[i]);
  }
  const __m256i low = _mm256_packs_epi32(whole[0], whole[1]), high = _mm256_packs_epi32(whole[2], whole[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); // packing works within 128 bits
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(codes), bytes);
  __m128i added = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  added = _mm_add_epi32(added, _mm_shuffle_epi32(added, 0x4e));
  added = _mm_add_epi32(added, _mm_shuffle_epi32(added, 0xb1));
  sum = _mm_cvtsi128_si32(added);
  return scale;
}
#endif

} // namespace
