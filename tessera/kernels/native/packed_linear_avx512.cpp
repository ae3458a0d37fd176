// Products with packed weights by VNNI: four columns of 16 rows times one token's four inputs in one instruction.
//
// Weights are the unsigned side, as they are stored; the inputs' sums, ready in the panel, take the codes' centre
// off again. A group costs 8 such instructions for each token, and a multiplication and a fused one to scale it:
// at most four fifths of the processor's peak.
#include "export.h"
#include "packed_linear.h"

namespace {

constexpr int CHAIN_TOKENS = 4;             // as many sums in flight as the instruction has cycles of latency
constexpr int64_t PREFETCH_BYTES = 8 << 10;  // ahead in the codes, which come from memory
constexpr int64_t PAGE_BYTES = 4 << 10;
constexpr int PAGE_LINES = 4; // of the next page that are fetched early
constexpr int64_t PREFETCH_INPUTS = 1 << 10; // ahead in the inputs, which many tokens keep in the second-level cache

// Scales (or minimums) of one group of a tile.
template <int BITS, bool SUPER>
__m512 group_values(const uint8_t *values, const uint16_t *supers, int64_t tile, int64_t groups, int64_t group) {
  if (!SUPER) return halves(values + (tile * groups + group) * TILE_ROWS * 2);
  const int64_t super = tile * (groups / SUPER_GROUPS) + group / SUPER_GROUPS;
  __m512 multiplier = multipliers(values + (tile * groups + group) * TILE_ROWS);
  if (BITS == 3) multiplier = _mm512_sub_ps(multiplier, _mm512_set1_ps(SIGNED_CENTRE));
  return _mm512_mul_ps(multiplier, halves(supers + super * TILE_ROWS));
}

// The levels of codes of 3 bits.
void load_levels(const uint8_t *from, __m512i (&levels)[8]) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(LEVELS)));
  const __m512i three = _mm512_set1_epi8(7), low = _mm512_set1_epi8(3), high = _mm512_set1_epi8(4);
  __m512i chunks[3];
  for (int j = 0; j < 3; ++j) {
    chunks[j] = _mm512_loadu_si512(from + 64 * j);
    levels[2 * j] = _mm512_and_si512(chunks[j], three);
    levels[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(chunks[j], 3), three);
  }
  for (int j = 0; j < 2; ++j) {
    const __m512i top = _mm512_and_si512(_mm512_srli_epi16(chunks[2], 4 + j), high);
    levels[6 + j] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(chunks[j], 6), low), top);
  }
  for (int j = 0; j < 8; ++j) levels[j] = _mm512_shuffle_epi8(table, levels[j]);
}

template <int BITS> void load_codes(const uint8_t *from, __m512i (&codes)[8]) {
  if (BITS == 3) {
    load_levels(from, codes);
    return;
  }
  if (BITS == 8) {
    for (int j = 0; j < 8; ++j) codes[j] = _mm512_loadu_si512(from + 64 * j);
    return;
  }
  const __m512i low = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    const __m512i both = _mm512_loadu_si512(from + 64 * j);
    codes[j] = _mm512_and_si512(both, low);
    codes[4 + j] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
  }
}

// One token's products are done so soon that the processor fetches ahead by itself, but not past a page: the next one's
// first lines set it going there. With more tokens it waits too long, and each line is asked for.
template <int BITS, int TOKENS> void fetch_ahead(const uint8_t *from, int64_t group) {
  if (TOKENS > 1)
    for (int j = 0; j < BITS; ++j) _mm_prefetch(from + PREFETCH_BYTES + 64 * j, _MM_HINT_T1);
  else if (group % (PAGE_BYTES / (64 * BITS)) == 0)
    for (int line = 0; line < PAGE_LINES; ++line) _mm_prefetch(from + PAGE_BYTES + 64 * line, _MM_HINT_T0);
}

template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void tile_product(const Weight &weight, int64_t tile, const Panel &panel, float *out) {
  const int64_t groups = weight.groups();
  const uint8_t *from = weight.codes + tile * groups * 64 * BITS;
  const int8_t *inputs = panel.codes;
  __m512 sums[TOKENS];
  for (int t = 0; t < TOKENS; ++t) sums[t] = _mm512_setzero_ps();
  for (int64_t group = 0; group < groups; ++group, from += 64 * BITS, inputs += TOKENS * GROUP) {
    fetch_ahead<BITS, TOKENS>(from, group);
    for (int t = 0; TOKENS > CHAIN_TOKENS && t < TOKENS; t += 2)
      _mm_prefetch(inputs + PREFETCH_INPUTS + t * GROUP, _MM_HINT_T0);
    __m512i codes[8];
    load_codes<BITS>(from, codes);
    const __m512 scale = group_values<BITS, SUPER>(weight.scales, weight.super_scales, tile, groups, group);
    __m512 minimum;
    if (MINIMUMS) minimum = group_values<BITS, SUPER>(weight.minimums, weight.super_minimums, tile, groups, group);
    if (MINIMUMS && SUPER) minimum = _mm512_sub_ps(_mm512_setzero_ps(), minimum);
    const float *scales = panel.scales + group * TOKENS, *shares = panel.shares + group * TOKENS;
#pragma GCC unroll 16
    for (int start = 0; start < TOKENS; start += CHAIN_TOKENS) {
      const int chains = std::min(CHAIN_TOKENS, TOKENS - start);
      __m512i products[CHAIN_TOKENS];
#pragma GCC unroll 4
      for (int c = 0; c < chains; ++c)
        products[c] = MINIMUMS ? _mm512_setzero_si512() : _mm512_castps_si512(_mm512_set1_ps(shares[start + c]));
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
#pragma GCC unroll 4
        for (int c = 0; c < chains; ++c) {
          int32_t four;
          std::memcpy(&four, inputs + (start + c) * GROUP + 4 * j, 4);
          products[c] = _mm512_dpbusd_epi32(products[c], codes[j], _mm512_set1_epi32(four));
        }
      }
#pragma GCC unroll 4
      for (int c = 0; c < chains; ++c) {
        const int t = start + c;
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(products[c]), scale);
        sums[t] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(scales[t]), sums[t]);
        if (MINIMUMS) sums[t] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(shares[t]), sums[t]);
      }
    }
  }
  for (int t = 0; t < TOKENS; ++t) _mm512_store_ps(out + t * OUT_STRIDE, sums[t]);
}

} // namespace

EXPORT int packed_linear_avx512(const PackedCall *calls, int64_t count) { return packed_linear(calls, count); }
