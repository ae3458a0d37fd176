// The packed layout of kernels/packed_weight.py, as Python passes it: field by field as in kernels/packed_linear.py.
#pragma once

#include <cstdint>

#include <immintrin.h>

namespace {

constexpr int TILE_ROWS = 16, GROUP = 32, SUPER_GROUPS = 8;

// What codes of 3 bits stand for, twice: a vector's lookup takes four bits of an index, of which the fourth is another
// code's. Also in kernels/packed_weight.py.
constexpr int8_t LEVELS[16] = {0, 6, 10, 14, 17, 20, 24, 29, 0, 6, 10, 14, 17, 20, 24, 29};
constexpr float SIGNED_CENTRE = 128; // of the multipliers of super-scales with 3 bits

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
// A tile's scales (or minimums) of one group: float16, or multipliers of a super-scale.
inline __m512 halves(const void *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i *>(from)));
}

inline __m512 multipliers(const uint8_t *from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
}
#endif

} // namespace
