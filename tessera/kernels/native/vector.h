// As many floats at once as a register holds, in the compiler's own vector type: one source for AVX2 and AVX-512.
//
// Everything is static: each file is compiled for its own processor.
#pragma once

#include <cstdint>
#include <cstring>

#include <immintrin.h>

namespace {

#ifdef __AVX512F__
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

template <class To, class From> inline To reinterpret(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  memcpy(&out, &value, sizeof(To));
  return out;
}

// A row of pairs as its even and its odd numbers.
struct Pairs {
  Floats even, odd;
};

// Written with intrinsics: the compiler's own conversions take two to three times as many instructions with AVX2, and
// its shuffles are not in GCC 11.
#ifdef __AVX512F__
// The number in all lanes.
inline Floats all(float value) { return _mm512_set1_ps(value); }
// As many numbers as lanes; the address need not be aligned. Rounding is to nearest, ties to even.
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *to, Floats value) { _mm512_storeu_ps(to, value); }
// a * b + c, rounded once.
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// The larger in each lane; b where either is NaN.
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
// x within [low, high].
inline Floats clamp(Floats x, Floats low, Floats high) { return _mm512_min_ps(_mm512_max_ps(x, low), high); }
// The nearest whole numbers, ties to even.
inline Floats nearest(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// The largest of all lanes.
inline float largest(Floats x) { return _mm512_reduce_max_ps(x); }
// The sum of all lanes, added as a tree.
inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
// A mask of the first `count` lanes, or of none or all.
inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count <= 0 ? 0 : count >= LANES ? 0xffff : (1 << count) - 1);
}
// The first `count` lanes of x, or none or all of them, then those of `others`.
inline Floats first(int64_t count, Floats x, Floats others) {
  return _mm512_mask_blend_ps(first_lanes(count), others, x);
}
inline Floats load(const float16 *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline void store(float16 *to, Floats value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load(const int8_t *from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
}
// bfloat16 in the upper half of each word.
inline Words widen(Halves halves) {
  return reinterpret<Words>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret<__m256i>(halves)), 16));
}
// The upper half of each word.
inline Halves narrow(Words words) {
  return reinterpret<Halves>(_mm512_cvtepi32_epi16(reinterpret<__m512i>(words >> 16)));
}
// Two registers of pairs, separated into even and odd numbers.
inline Pairs part(Floats first, Floats second) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {_mm512_permutex2var_ps(first, even, second), _mm512_permutex2var_ps(first, odd, second)};
}
// The inverse of `part`.
inline void join(Pairs pairs, Floats &first, Floats &second) {
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  first = _mm512_permutex2var_ps(pairs.even, low, pairs.odd);
  second = _mm512_permutex2var_ps(pairs.even, high, pairs.odd);
}
#else
inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float *from) { return _mm256_loadu_ps(from); }
inline void store(float *to, Floats value) { _mm256_storeu_ps(to, value); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats clamp(Floats x, Floats low, Floats high) { return _mm256_min_ps(_mm256_max_ps(x, low), high); }
inline Floats nearest(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float largest(Floats x) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_shuffle_ps(most, most, 1)));
}
inline float sum(Floats x) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}
inline Floats first(int64_t count, Floats x, Floats others) {
  const int lanes = count >= LANES ? LANES : static_cast<int>(count);
  const __m256i chosen = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_blendv_ps(others, x, _mm256_castsi256_ps(chosen));
}
inline Floats load(const float16 *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline void store(float16 *to, Floats value) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load(const int8_t *from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
}
inline Words widen(Halves halves) {
  return reinterpret<Words>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(reinterpret<__m128i>(halves)), 16));
}
inline Halves narrow(Words words) {
  const __m256i low = reinterpret<__m256i>(words >> 16);
  return reinterpret<Halves>(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
inline Floats in_order(__m256 quarters) { // shuffles work within 128 bits
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(quarters), 0xd8));
}
inline Pairs part(Floats first, Floats second) {
  return {in_order(_mm256_shuffle_ps(first, second, 0x88)), in_order(_mm256_shuffle_ps(first, second, 0xdd))};
}
inline void join(Pairs pairs, Floats &first, Floats &second) {
  const __m256 low = _mm256_unpacklo_ps(pairs.even, pairs.odd), high = _mm256_unpackhi_ps(pairs.even, pairs.odd);
  first = _mm256_permute2f128_ps(low, high, 0x20);
  second = _mm256_permute2f128_ps(low, high, 0x31);
}
#endif

// The nearest bfloat16 of each, ties to even as PyTorch rounds, in the upper half of its word.
inline Words round_to_bfloat16(Floats value) {
  const Words bits = reinterpret<Words>(value);
  const Words rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Words is_nan = reinterpret<Words>(value != value);
  return (rounded & ~is_nan) | (is_nan & 0x7fc00000u);
}

inline Floats load(const bfloat16 *from) {
  Halves halves;
  memcpy(&halves, from, sizeof(halves));
  return reinterpret<Floats>(widen(halves));
}

inline Pairs load_pairs(const bfloat16 *from) {
  Words words;
  memcpy(&words, from, sizeof(words));
  return {reinterpret<Floats>(words << 16), reinterpret<Floats>(words & 0xffff0000u)};
}

inline void store(bfloat16 *to, Floats value) {
  const Halves halves = narrow(round_to_bfloat16(value));
  memcpy(to, &halves, sizeof(halves));
}

// The first `count` lanes; the others are zero, and stay as they are in memory.
template <class Number> inline Floats load_part(const Number *from, int64_t count) {
  Number padded[LANES] = {};
  memcpy(padded, from, static_cast<size_t>(count) * sizeof(Number));
  return load(padded);
}

template <class Number> inline void store_part(Number *to, Floats value, int64_t count) {
  Number padded[LANES];
  store(padded, value);
  memcpy(to, padded, static_cast<size_t>(count) * sizeof(Number));
}

// The sums of four rows at once.
inline __m128 sums(const Floats (&rows)[4]) {
  __m128 four[4];
  for (int row = 0; row < 4; ++row) {
#ifdef __AVX512F__
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(rows[row]), _mm512_extractf32x8_ps(rows[row], 1));
#else
    const __m256 half = rows[row];
#endif
    four[row] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  }
  _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
  return _mm_add_ps(_mm_add_ps(four[0], four[1]), _mm_add_ps(four[2], four[3]));
}

// e to the power of each, within 2 units in the last place; x is held to +-87.3, where floats end. NaN gives e^-87.3.
// 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]: the Taylor series to the 7th power, whose next term is 5e-9.
inline Floats exponential(Floats x) {
  const Floats magic = all(12582912.0f); // 1.5 * 2^23: adding it rounds to whole numbers
  const Floats inside = clamp(x, all(-87.3f), all(87.3f));
  const Floats shifted = fused(inside, all(1.44269504f), magic);
  const Floats whole = shifted - magic;
  // ln 2 in two parts: the first has so few bits that its product with `whole` is exact.
  const Floats rest = fused(whole, all(2.12194440e-4f), fused(whole, all(-0.693359375f), inside));
  const float factors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  Floats power = all(1.0f / 5040);
  for (const float factor : factors) power = fused(power, rest, all(factor));
  // `shifted` holds n in its lowest bits: they go to where the exponent is.
  return reinterpret<Floats>(reinterpret<Words>(power) + (reinterpret<Words>(shifted) << 23));
}

} // namespace
