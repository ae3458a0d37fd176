// Products with packed weights for processors without VNNI: bytes are multiplied to pairs of 16 bits, then to 32.
//
// The multiplication of bytes saturates at 16 bits. With 4 bits a pair is at most 2 * 15 * 127, and a group's
// eight pairs still fit: they are added up in 16 bits. With 3 bits, whose levels reach 29, four do. With 8 bits unsigned codes would not fit, so the centre is
// taken off first and the sign moved to the inputs: a pair is at most 2 * 128 * 127.
#include "export.h"
#include "packed_linear.h"

namespace {

constexpr int HALF_ROWS = 8;    // a register's sums; a tile is done in two passes
constexpr int CHAIN_TOKENS = 4; // that share the codes as they are unpacked: what 16 registers hold

__m256 halves(const void *from) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(from))); }

__m256 multipliers(const uint8_t *from, bool is_signed) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
  return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
}

// Scales (or minimums) of one group of half a tile.
template <int BITS, bool SUPER>
__m256 group_values(const uint8_t *values, const uint16_t *supers, int64_t tile, int64_t groups, int64_t group,
                    int half) {
  const int64_t place = (tile * groups + group) * TILE_ROWS + half * HALF_ROWS;
  if (!SUPER) return halves(values + place * 2);
  const int64_t super = tile * (groups / SUPER_GROUPS) + group / SUPER_GROUPS;
  return _mm256_mul_ps(multipliers(values + place, BITS == 3), halves(supers + super * TILE_ROWS + half * HALF_ROWS));
}

__m256i four_inputs(const int8_t *from) {
  int32_t four;
  std::memcpy(&four, from, 4);
  return _mm256_set1_epi32(four);
}

// The products of 3-bit codes' levels with a group of each of TOKENS tokens for 8 rows. Codes lie in pairs, bits 0 to 2
// and 4 to 6 of each byte; a lookup takes four bits of an index, if its highest is zero.
template <int TOKENS>
void level_products(const uint8_t *codes, const int8_t *inputs, __m256i (&sums)[CHAIN_TOKENS]) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(LEVELS)));
  const __m256i low = _mm256_set1_epi8(0x11), both = _mm256_set1_epi8(0x77);
  __m256i last = _mm256_setzero_si256(), halves[CHAIN_TOKENS];
  for (int t = 0; t < TOKENS; ++t) sums[t] = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m256i pairs = last;
    if (j < 3) {
      pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(codes + 64 * j));
      last = _mm256_or_si256(last, _mm256_and_si256(_mm256_srli_epi16(pairs, 3 - j), _mm256_slli_epi16(low, j)));
      pairs = _mm256_and_si256(pairs, both);
    }
    const __m256i first = _mm256_shuffle_epi8(table, pairs);
    const __m256i second = _mm256_shuffle_epi8(table, _mm256_srli_epi16(pairs, 4));
#pragma GCC unroll 4
    for (int t = 0; t < TOKENS; ++t) {
      const int8_t *from = inputs + t * GROUP + 8 * j;
      const __m256i products = _mm256_add_epi16(_mm256_maddubs_epi16(first, four_inputs(from)),
                                                _mm256_maddubs_epi16(second, four_inputs(from + 4)));
      halves[t] = j % 2 ? _mm256_add_epi16(halves[t], products) : products;
      if (j % 2) sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(halves[t], _mm256_set1_epi16(1)));
    }
  }
}

// The codes' products with a group of each of TOKENS tokens for 8 rows; with 8 bits the centre is off already.
template <int BITS, int TOKENS>
void group_products(const uint8_t *codes, const int8_t *inputs, __m256i (&sums)[CHAIN_TOKENS]) {
  if (BITS == 3) return level_products<TOKENS>(codes, inputs, sums);
  const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
  for (int t = 0; t < TOKENS; ++t) sums[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int j = 0; j < BITS; ++j) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(codes + 64 * j));
    if (BITS == 8) {
      const __m256i code = _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(0x80)));
      const __m256i magnitude = _mm256_abs_epi8(code);
#pragma GCC unroll 4
      for (int t = 0; t < TOKENS; ++t) {
        const __m256i signed_inputs = _mm256_sign_epi8(four_inputs(inputs + t * GROUP + 4 * j), code);
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, signed_inputs);
        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs, ones));
      }
    } else {
      const __m256i first = _mm256_and_si256(bytes, low), second = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
#pragma GCC unroll 4
      for (int t = 0; t < TOKENS; ++t) {
        const int8_t *from = inputs + t * GROUP + 4 * j;
        sums[t] = _mm256_add_epi16(sums[t], _mm256_maddubs_epi16(first, four_inputs(from)));
        sums[t] = _mm256_add_epi16(sums[t], _mm256_maddubs_epi16(second, four_inputs(from + GROUP / 2)));
      }
    }
  }
  if (BITS == 4)
    for (int t = 0; t < TOKENS; ++t) sums[t] = _mm256_madd_epi16(sums[t], ones);
}

// Adds a group's products, scaled, to the sums of TOKENS tokens, the first of which is token `start` of the panel.
template <int BITS, bool MINIMUMS, int TOKENS>
inline __attribute__((always_inline)) void add_group(const uint8_t *codes, __m256 scale, __m256 minimum,
                                                     const Panel &panel, int64_t cell, __m256 *sums) {
  __m256i products[CHAIN_TOKENS];
  group_products<BITS, TOKENS>(codes, panel.codes + cell * GROUP, products);
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; ++t) {
    if (!MINIMUMS && BITS != 8) {
      int32_t share;
      std::memcpy(&share, panel.shares + cell + t, 4);
      products[t] = _mm256_add_epi32(products[t], _mm256_set1_epi32(share));
    }
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(products[t]), scale);
    sums[t] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(panel.scales[cell + t]), sums[t]);
    if (MINIMUMS) sums[t] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(panel.shares[cell + t]), sums[t]);
  }
}

template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void half_product(const Weight &weight, int64_t tile, int half, const Panel &panel, float *out) {
  constexpr int WHOLE = TOKENS / CHAIN_TOKENS * CHAIN_TOKENS, REST = TOKENS - WHOLE;
  const int64_t groups = weight.groups();
  const uint8_t *codes = weight.codes + tile * groups * 64 * BITS + half * 32;
  __m256 sums[TOKENS];
  for (int t = 0; t < TOKENS; ++t) sums[t] = _mm256_setzero_ps();
  for (int64_t group = 0; group < groups; ++group, codes += 64 * BITS) {
    // Each half fetches its share of the next tile, so that memory is busy in both.
    for (int j = half * BITS / 2; j < (half + 1) * BITS / 2; ++j) // with 3 bits, one of the lines and two
      _mm_prefetch(codes + groups * 64 * BITS + 64 * j, _MM_HINT_T1);
    const __m256 scale = group_values<BITS, SUPER>(weight.scales, weight.super_scales, tile, groups, group, half);
    __m256 minimum = _mm256_setzero_ps();
    if (MINIMUMS) minimum = group_values<BITS, SUPER>(weight.minimums, weight.super_minimums, tile, groups, group, half);
    if (MINIMUMS && SUPER) minimum = _mm256_sub_ps(_mm256_setzero_ps(), minimum);
    // With 8 bits the products lack the centre, which the minimum then makes up for.
    if (MINIMUMS && BITS == 8) minimum = _mm256_fmadd_ps(scale, _mm256_set1_ps(128), minimum);
    const int64_t cell = group * TOKENS;
    for (int t = 0; t < WHOLE; t += CHAIN_TOKENS)
      add_group<BITS, MINIMUMS, CHAIN_TOKENS>(codes, scale, minimum, panel, cell + t, sums + t);
    if constexpr (REST > 0)
      add_group<BITS, MINIMUMS, REST>(codes, scale, minimum, panel, cell + WHOLE, sums + WHOLE);
  }
  for (int t = 0; t < TOKENS; ++t) _mm256_store_ps(out + t * OUT_STRIDE, sums[t]);
}

template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void tile_product(const Weight &weight, int64_t tile, const Panel &panel, float *out) {
  for (int half = 0; half < 2; ++half)
    half_product<BITS, MINIMUMS, SUPER, TOKENS>(weight, tile, half, panel, out + half * HALF_ROWS);
}

} // namespace

EXPORT int packed_linear_avx2(const PackedCall *calls, int64_t count) { return packed_linear(calls, count); }
