// The packed layout of kernels/packed_weight.py, as Python passes it: field by field as in kernels/packed_linear.py.
#pragma once

#include <cstdint>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int TILE_ROWS = 16, GROUP = 32, SUPER_GROUPS = 8;

// What codes of 3 bits stand for, twice: a vector's lookup takes four bits of an index, of which the fourth may be
// any. Also in kernels/packed_weight.py.
constexpr int8_t LEVELS[16] = {0, 6, 10, 14, 17, 20, 24, 29, 0, 6, 10, 14, 17, 20, 24, 29};

// The code, or level, whose value is zero where there are no minimums.
constexpr int centre_of(int64_t bits) { return bits == 3 ? 16 : 1 << (bits - 1); }

struct Weight {
  const uint8_t *codes, *scales, *minimums;
  const uint16_t *super_scales, *super_minimums;
  int64_t bits, rows, columns;

  int64_t groups() const { return columns / GROUP; }
  int64_t tiles() const { return (rows + TILE_ROWS - 1) / TILE_ROWS; }
};

#ifdef __AVX512F__
// A tile's scales (or minimums) of one group: float16, or multipliers of a super-scale, which with 3 bits are signed.
inline __m512 halves(const void *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i *>(from)));
}

inline __m512 multipliers(const uint8_t *from, bool is_signed) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
  return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
}

// Pairs of 3-bit codes in bits 0 to 2 and 4 to 6 of each byte (the others are any): those of columns 8 * j + b and
// 8 * j + 4 + b are chunk j itself, and the last, of columns 24 + b and 28 + b, are its bits 3 and 7.
inline __m512i last_pairs(const __m512i (&chunks)[3]) {
  const __m512i two = _mm512_ternarylogic_epi32(_mm512_srli_epi16(chunks[0], 3), _mm512_srli_epi16(chunks[1], 2),
                                                _mm512_set1_epi8(0x11), 0xe4); // the mask's bits of the first
  return _mm512_ternarylogic_epi32(two, _mm512_srli_epi16(chunks[2], 1), _mm512_set1_epi8(0x33), 0xe4);
}
#endif

} // namespace
