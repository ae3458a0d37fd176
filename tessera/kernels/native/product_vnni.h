// Products of unsigned with signed bytes, four at a time, added up in whole numbers: VNNI's instruction.
//
// Compiled for a processor without VNNI the instruction is put together from others, with the same sums, so that tests
// run all that surrounds it there.
#pragma once

#include "vector.h"

namespace {

typedef int32_t Whole __attribute__((vector_size(LANES * 4))); // whole numbers, or four bytes in each lane
typedef int8_t Bytes __attribute__((vector_size(LANES)));

inline Whole load_whole(const void *from) {
  Whole out;
  memcpy(&out, from, sizeof(out));
  return out;
}

// Four bytes in all lanes.
inline Whole all_four(const void *from) {
  int32_t four;
  memcpy(&four, from, sizeof(four));
  return Whole{} + four;
}

inline Floats to_floats(Whole x) { return __builtin_convertvector(x, Floats); }

#ifdef __AVX512VNNI__
// sums plus, in each lane, the four unsigned bytes times the four signed ones.
inline Whole dot(Whole sums, Whole unsigned_bytes, Whole signed_bytes) {
  return reinterpret<Whole>(_mm512_dpbusd_epi32(reinterpret<__m512i>(sums), reinterpret<__m512i>(unsigned_bytes),
                                                reinterpret<__m512i>(signed_bytes)));
}
// The nearest whole numbers, ties to even.
inline Whole to_whole(Floats x) { return reinterpret<Whole>(_mm512_cvtps_epi32(x)); }
// 64 numbers, held to 0 to 255, as bytes: fours in the order 0, 4, 8, 12, 1, 5 and so on, since packing works within
// 128 bits.
inline void store_bytes(uint8_t *to, const Whole (&numbers)[4]) {
  const __m512i low = _mm512_packs_epi32(reinterpret<__m512i>(numbers[0]), reinterpret<__m512i>(numbers[1]));
  const __m512i high = _mm512_packs_epi32(reinterpret<__m512i>(numbers[2]), reinterpret<__m512i>(numbers[3]));
  _mm512_storeu_si512(to, _mm512_packus_epi16(low, high));
}
#else
inline Whole dot(Whole sums, Whole unsigned_bytes, Whole signed_bytes) {
  const __m256i a = reinterpret<__m256i>(unsigned_bytes), b = reinterpret<__m256i>(signed_bytes);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                                         _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return sums + reinterpret<Whole>(even) + reinterpret<Whole>(odd);
}
inline Whole to_whole(Floats x) { return reinterpret<Whole>(_mm256_cvtps_epi32(x)); }
inline void store_bytes(uint8_t *to, const Whole (&numbers)[8]) {
  int32_t each[64];
  memcpy(each, numbers, sizeof(each));
  for (int place = 0; place < 64; ++place) {
    const int four = place / 4 % 4 * 4 + place / 16, number = each[4 * four + place % 4];
    to[place] = static_cast<uint8_t>(number < 0 ? 0 : number > 255 ? 255 : number);
  }
}
#endif

constexpr int64_t DOT_ROWS = 6; // 6 x 4 sums leave 8 of the 32 registers for the factors

// Adds a's rows times b's columns to `sums`: row r of a has 4 * `groups` bytes; b has, for each group of four, all
// columns' four bytes side by side.
template <int VECTORS>
inline __attribute__((always_inline)) void add_dots(const uint8_t *a, int64_t a_stride, const int8_t *b,
                                                    int64_t b_stride, int64_t groups,
                                                    Whole (&sums)[DOT_ROWS][VECTORS]) {
  for (int64_t group = 0; group < groups; ++group) {
    Whole of_b[VECTORS];
    for (int v = 0; v < VECTORS; ++v) of_b[v] = load_whole(b + group * b_stride + 4 * LANES * v);
    for (int row = 0; row < DOT_ROWS; ++row) {
      const Whole of_a = all_four(a + row * a_stride + 4 * group);
      for (int v = 0; v < VECTORS; ++v) sums[row][v] = dot(sums[row][v], of_a, of_b[v]);
    }
  }
}

} // namespace
