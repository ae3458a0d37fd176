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

// The levels of codes of 3 bits. A lookup takes four bits of an index, if its highest is zero.
void load_levels(const uint8_t *from, __m512i (&levels)[8]) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(LEVELS)));
  __m512i chunks[3];
  for (int j = 0; j < 3; ++j) chunks[j] = _mm512_loadu_si512(from + 64 * j);
  for (int j = 0; j < 4; ++j) {
    const __m512i pairs = _mm512_and_si512(j < 3 ? chunks[j % 3] : last_pairs(chunks), _mm512_set1_epi8(0x77));
    levels[2 * j] = _mm512_shuffle_epi8(table, pairs);
    levels[2 * j + 1] = _mm512_shuffle_epi8(table, _mm512_srli_epi16(pairs, 4));
  }
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
  else if (BITS == 3 ? reinterpret_cast<uintptr_t>(from) % PAGE_BYTES < 64 * BITS // of which no whole number is a page
                     : group % (PAGE_BYTES / (64 * BITS)) == 0)
    for (int line = 0; line < PAGE_LINES; ++line) _mm_prefetch(from + PAGE_BYTES + 64 * line, _MM_HINT_T0);
}

// Adds the products of 16 rows' four columns with one token's four inputs. GCC 12 broadcasts them in an instruction of
// its own, where the product itself can.
__m512i add_four(__m512i sums, __m512i codes, const int8_t *inputs) {
#ifdef __SANITIZE_ADDRESS__ // sees what intrinsics read
  int32_t four;
  std::memcpy(&four, inputs, 4);
  return _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(four));
#else
  __asm__("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(sums)
          : "v"(codes), "m"(*reinterpret_cast<const int8_t(*)[4]>(inputs)));
  return sums;
#endif
}

template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void tile_product(const Weight &weight, int64_t tile, const Panel &panel, float *out) {
  const int64_t groups = weight.groups();
  const uint8_t *from = weight.codes + tile * groups * 64 * BITS;
  const int8_t *inputs = panel.codes;
  __m512 sums[TOKENS];
  for (int t = 0; t < TOKENS; ++t) sums[t] = _mm512_setzero_ps();
  __m512 super_scale = _mm512_setzero_ps(), super_minimum = super_scale;
  for (int64_t group = 0; group < groups; ++group, from += 64 * BITS, inputs += TOKENS * GROUP) {
    fetch_ahead<BITS, TOKENS>(from, group);
    for (int t = 0; TOKENS > CHAIN_TOKENS && t < TOKENS; t += 2)
      _mm_prefetch(inputs + PREFETCH_INPUTS + t * GROUP, _MM_HINT_T0);
    __m512i codes[8];
    load_codes<BITS>(from, codes);
    const int64_t cell = (tile * groups + group) * TILE_ROWS;
    if (SUPER && group % SUPER_GROUPS == 0) {
      const int64_t super = (tile * (groups / SUPER_GROUPS) + group / SUPER_GROUPS) * TILE_ROWS;
      super_scale = halves(weight.super_scales + super);
      if (MINIMUMS) super_minimum = _mm512_sub_ps(_mm512_setzero_ps(), halves(weight.super_minimums + super));
    }
    const __m512 scale = SUPER ? _mm512_mul_ps(multipliers(weight.scales + cell, BITS == 3), super_scale)
                               : halves(weight.scales + 2 * cell);
    __m512 minimum;
    if (MINIMUMS)
      minimum = SUPER ? _mm512_mul_ps(multipliers(weight.minimums + cell, false), super_minimum)
                      : halves(weight.minimums + 2 * cell);
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
        for (int c = 0; c < chains; ++c)
          products[c] = add_four(products[c], codes[j], inputs + (start + c) * GROUP + 4 * j);
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
