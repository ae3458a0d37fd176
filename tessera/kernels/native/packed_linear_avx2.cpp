// Products with packed weights for processors without VNNI: bytes are multiplied to pairs of 16 bits, then to 32.
//
// The multiplication of bytes saturates at 16 bits. With 4 bits a pair is at most 2 * 15 * 127, and a group's
// eight pairs still fit: they are added up in 16 bits. With 3 bits, whose levels reach 29, four do. With 8 bits unsigned
// codes would not fit, so the centre is taken off first and the sign moved to the inputs: a pair is at most
// 2 * 128 * 127.
#include "export.h"
#include "packed_linear.h"

namespace {

constexpr int HALF_ROWS = 8; // a register's sums
// Tokens with which both halves are done in one pass: what registers hold beside the codes of 3 and 4 bits.
constexpr int one_pass_tokens(int bits) { return bits == 8 ? 8 : 2; }
constexpr int64_t FETCHED_BYTES = 4 << 10; // ahead of the codes, in one pass
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

// A group's codes of 8 rows for columns 4 * k to 4 * k + 3, or with 3 bits the levels that they stand for. Those lie in
// pairs, bits 0 to 2 and 4 to 6 of each byte; a lookup takes four bits of an index, if its highest is zero.
template <int BITS> void load_codes(const uint8_t *from, __m256i (&codes)[8]) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(LEVELS)));
  const __m256i first = _mm256_set1_epi8(0x11), mask = _mm256_set1_epi8(BITS == 3 ? 0x77 : 15);
  __m256i last = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m256i bytes = last;
    if (BITS == 4 || j < 3) bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + 64 * j));
    if (BITS == 4) {
      codes[j] = _mm256_and_si256(bytes, mask);
      codes[4 + j] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    } else {
      if (j < 3) last = _mm256_or_si256(last, _mm256_and_si256(_mm256_srli_epi16(bytes, 3 - j), _mm256_slli_epi16(first, j)));
      bytes = _mm256_and_si256(bytes, mask);
      codes[2 * j] = _mm256_shuffle_epi8(table, bytes);
      codes[2 * j + 1] = _mm256_shuffle_epi8(table, _mm256_srli_epi16(bytes, 4));
    }
  }
}

// Four columns' products with a token's inputs, as pairs in 16 bits.
__m256i pairs_of(__m256i codes, const int8_t *inputs) { return _mm256_maddubs_epi16(codes, four_inputs(inputs)); }

// A group's products with a token's inputs, of 3 or 4 bits.
template <int BITS> __m256i token_products(const __m256i (&codes)[8], const int8_t *inputs) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[2] = {pairs_of(codes[0], inputs), pairs_of(codes[4], inputs + 16)};
#pragma GCC unroll 3
  for (int k = 1; k < 4; ++k) {
    sums[0] = _mm256_add_epi16(sums[0], pairs_of(codes[k], inputs + 4 * k));
    sums[1] = _mm256_add_epi16(sums[1], pairs_of(codes[4 + k], inputs + 16 + 4 * k));
  }
  if (BITS == 4) return _mm256_madd_epi16(_mm256_add_epi16(sums[0], sums[1]), ones);
  return _mm256_add_epi32(_mm256_madd_epi16(sums[0], ones), _mm256_madd_epi16(sums[1], ones));
}

// The products of 8-bit codes less their centre with a group of each of TOKENS tokens for 8 rows.
template <int TOKENS>
void group_products(const uint8_t *codes, const int8_t *inputs, __m256i (&sums)[CHAIN_TOKENS]) {
  for (int t = 0; t < TOKENS; ++t) sums[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(codes + 64 * j));
    const __m256i code = _mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(0x80)));
    const __m256i magnitude = _mm256_abs_epi8(code);
#pragma GCC unroll 4
    for (int t = 0; t < TOKENS; ++t) {
      const __m256i signed_inputs = _mm256_sign_epi8(four_inputs(inputs + t * GROUP + 4 * j), code);
      const __m256i pairs = _mm256_maddubs_epi16(magnitude, signed_inputs);
      sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
  }
}

// Adds a group's products with token `at` of the panel, scaled, to its sums.
template <int BITS, bool MINIMUMS>
inline void add_token(__m256i products, __m256 scale, __m256 minimum, const Panel &panel, int64_t at, __m256 &sums) {
  if (!MINIMUMS && BITS != 8) {
    int32_t share;
    std::memcpy(&share, panel.shares + at, 4);
    products = _mm256_add_epi32(products, _mm256_set1_epi32(share));
  }
  const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(products), scale);
  sums = _mm256_fmadd_ps(scaled, _mm256_set1_ps(panel.scales[at]), sums);
  if (MINIMUMS) sums = _mm256_fmadd_ps(minimum, _mm256_set1_ps(panel.shares[at]), sums);
}

// Adds a group's products to the sums of TOKENS tokens, the first of which is token `cell` of the panel. Codes of 3 and 4
// bits are unpacked once for all tokens. With 8 bits they and their magnitudes do not fit into the registers.
template <int BITS, bool MINIMUMS, int TOKENS>
inline __attribute__((always_inline)) void add_group(const uint8_t *from, __m256 scale, __m256 minimum,
                                                     const Panel &panel, int64_t cell, __m256 *sums) {
  const int8_t *inputs = panel.codes + cell * GROUP;
  if constexpr (BITS == 8) {
    constexpr int CHAIN = TOKENS < CHAIN_TOKENS ? TOKENS : CHAIN_TOKENS, REST = TOKENS % CHAIN;
    __m256i products[CHAIN_TOKENS];
    for (int start = 0; start + CHAIN <= TOKENS; start += CHAIN) {
      group_products<CHAIN>(from, inputs + start * GROUP, products);
#pragma GCC unroll 4
      for (int t = 0; t < CHAIN; ++t)
        add_token<BITS, MINIMUMS>(products[t], scale, minimum, panel, cell + start + t, sums[start + t]);
    }
    if constexpr (REST > 0) group_products<REST>(from, inputs + (TOKENS - REST) * GROUP, products);
    for (int t = TOKENS - REST; t < TOKENS; ++t)
      add_token<BITS, MINIMUMS>(products[t - TOKENS + REST], scale, minimum, panel, cell + t, sums[t]);
  } else {
    __m256i codes[8];
    load_codes<BITS>(from, codes);
    for (int t = 0; t < TOKENS; ++t)
      add_token<BITS, MINIMUMS>(token_products<BITS>(codes, inputs + t * GROUP), scale, minimum, panel, cell + t,
                                sums[t]);
  }
}

// Asks for codes that are needed later: in one pass those some lines ahead; in two, each half its share of the next tile's,
// so that memory is busy in both.
template <int BITS, int HALVES> void fetch_ahead(const uint8_t *codes, int64_t groups, int half) {
  if (HALVES == 2) {
    for (int j = 0; j < BITS; ++j) _mm_prefetch(codes + FETCHED_BYTES + 64 * j, _MM_HINT_T0);
  } else {
    for (int j = half * BITS / 2; j < (half + 1) * BITS / 2; ++j) // with 3 bits, one of the lines and two
      _mm_prefetch(codes + groups * 64 * BITS + 64 * j, _MM_HINT_T1);
  }
}

// HALVES of a tile's rows from half `first` on. One pass of both reads memory straight on; with many tokens, whose sums
// fill the registers, each half takes its own.
template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS, int HALVES>
void part_product(const Weight &weight, int64_t tile, int first, const Panel &panel, float *out) {
  const int64_t groups = weight.groups();
  const uint8_t *codes = weight.codes + tile * groups * 64 * BITS + first * 32;
  __m256 sums[HALVES][TOKENS];
  for (auto &half : sums)
    for (int t = 0; t < TOKENS; ++t) half[t] = _mm256_setzero_ps();
  for (int64_t group = 0; group < groups; ++group, codes += 64 * BITS) {
    fetch_ahead<BITS, HALVES>(codes, groups, first);
#pragma GCC unroll 2
    for (int half = 0; half < HALVES; ++half) {
      const int at = first + half;
      const __m256 scale = group_values<BITS, SUPER>(weight.scales, weight.super_scales, tile, groups, group, at);
      __m256 minimum = _mm256_setzero_ps();
      if (MINIMUMS) minimum = group_values<BITS, SUPER>(weight.minimums, weight.super_minimums, tile, groups, group, at);
      if (MINIMUMS && SUPER) minimum = _mm256_sub_ps(_mm256_setzero_ps(), minimum);
      // With 8 bits the products lack the centre, which the minimum then makes up for.
      if (MINIMUMS && BITS == 8) minimum = _mm256_fmadd_ps(scale, _mm256_set1_ps(128), minimum);
      add_group<BITS, MINIMUMS, TOKENS>(codes + half * 32, scale, minimum, panel, group * TOKENS, sums[half]);
    }
  }
  for (int half = 0; half < HALVES; ++half)
    for (int t = 0; t < TOKENS; ++t)
      _mm256_store_ps(out + (first + half) * HALF_ROWS + t * OUT_STRIDE, sums[half][t]);
}

template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void tile_product(const Weight &weight, int64_t tile, const Panel &panel, float *out) {
  if constexpr (TOKENS <= one_pass_tokens(BITS)) {
    part_product<BITS, MINIMUMS, SUPER, TOKENS, 2>(weight, tile, 0, panel, out);
  } else {
    for (int half = 0; half < 2; ++half)
      part_product<BITS, MINIMUMS, SUPER, TOKENS, 1>(weight, tile, half, panel, out);
  }
}

} // namespace

EXPORT int packed_linear_avx2(const PackedCall *calls, int64_t count) { return packed_linear(calls, count); }
