// Products with packed weights for processors without VNNI: bytes are multiplied to pairs of 16 bits, then to 32.
//
// The multiplication of bytes saturates at 16 bits. With 4 bits a pair is at most 2 * 15 * 127, and a group's
// eight pairs still fit: they are added up in 16 bits. With 8 bits unsigned codes would not fit, so the centre is
// taken off first and the sign moved to the inputs: a pair is at most 2 * 128 * 127.
#include "export.h"
#include "packed_linear.h"

#include <utility>

namespace {

// The registers hold two tokens: their sums, one token's products, and the codes that both share.
constexpr int HALF_ROWS = 8;

__m256 halves(const void *from) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(from))); }

__m256 multipliers(const uint8_t *from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
}

// Scales (or minimums) of one group of half a tile.
template <bool SUPER>
__m256 group_values(const uint8_t *values, const uint16_t *supers, int64_t tile, int64_t groups, int64_t group,
                    int half) {
  const int64_t place = (tile * groups + group) * TILE_ROWS + half * HALF_ROWS;
  if (!SUPER) return halves(values + place * 2);
  const int64_t super = tile * (groups / SUPER_GROUPS) + group / SUPER_GROUPS;
  return _mm256_mul_ps(multipliers(values + place), halves(supers + super * TILE_ROWS + half * HALF_ROWS));
}

// The codes' product with one token's group for 8 rows, less the centre with 8 bits.
template <int BITS> __m256i group_product(const uint8_t *codes, const int8_t *inputs) {
  __m256i sum = _mm256_setzero_si256();
  const __m256i ones = _mm256_set1_epi16(1);
  for (int j = 0; j < BITS; ++j) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(codes + 64 * j));
    int32_t four[2];
    std::memcpy(four, inputs + 4 * j, 4);
    if (BITS == 8) {
      const __m256i code = _mm256_xor_si256(both, _mm256_set1_epi8(static_cast<char>(0x80)));
      const __m256i signs = _mm256_sign_epi8(_mm256_set1_epi32(four[0]), code);
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(code), signs);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    } else {
      std::memcpy(four + 1, inputs + 16 + 4 * j, 4);
      const __m256i low = _mm256_set1_epi8(15);
      const __m256i first = _mm256_and_si256(both, low), second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(first, _mm256_set1_epi32(four[0])));
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(second, _mm256_set1_epi32(four[1])));
    }
  }
  return BITS == 8 ? sum : _mm256_madd_epi16(sum, ones);
}

template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void half_product(const Weight &weight, int64_t tile, int half, const Panel &panel, float *out) {
  const int64_t groups = weight.groups();
  const uint8_t *codes = weight.codes + tile * groups * 64 * BITS + half * 32;
  __m256 sums[TOKENS];
  for (int t = 0; t < TOKENS; ++t) sums[t] = _mm256_setzero_ps();
  for (int64_t group = 0; group < groups; ++group, codes += 64 * BITS) {
    const __m256 scale = group_values<SUPER>(weight.scales, weight.super_scales, tile, groups, group, half);
    __m256 minimum = _mm256_setzero_ps();
    if (MINIMUMS) minimum = group_values<SUPER>(weight.minimums, weight.super_minimums, tile, groups, group, half);
    if (MINIMUMS && SUPER) minimum = _mm256_sub_ps(_mm256_setzero_ps(), minimum);
    // With 8 bits the products lack the centre, which the minimum then takes in.
    if (MINIMUMS && BITS == 8) minimum = _mm256_fmadd_ps(scale, _mm256_set1_ps(128), minimum);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) {
      const int64_t cell = group * TOKENS + t;
      __m256i product = group_product<BITS>(codes, panel.codes + cell * GROUP);
      if (!MINIMUMS && BITS == 4) {
        int32_t share;
        std::memcpy(&share, panel.shares + cell, 4);
        product = _mm256_add_epi32(product, _mm256_set1_epi32(share));
      }
      const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(product), scale);
      sums[t] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(panel.scales[cell]), sums[t]);
      if (MINIMUMS) sums[t] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(panel.shares[cell]), sums[t]);
    }
  }
  for (int t = 0; t < TOKENS; ++t) _mm256_store_ps(out + t * CHUNK_TILES * TILE_ROWS, sums[t]);
}
