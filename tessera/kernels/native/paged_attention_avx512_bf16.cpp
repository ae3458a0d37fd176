// Attention over the paged cache by products of pairs in bfloat16, for queries that are bfloat16 themselves.
//
// Queries and keys are multiplied as they are (codes of 8 bits fit into bfloat16); weights are rounded to bfloat16, as
// PyTorch's fused attention rounds them. The width is a multiple of 32.
#include "export.h"
#include "paged_attention.h"

namespace {

constexpr int64_t PAIRED = 32; // channels of a vector

inline __m512i pairs(const bfloat16 *p) { return _mm512_loadu_si512(p); }
inline __m512i pairs(const int8_t *p) {
  return (__m512i)_mm512_cvtne2ps_pbh(load(p + LANES), load(p));
}

struct Paired {
  template <class Stored>
  static void multiply_keys(const Rows &rows, const Block<Stored> &block, int64_t width, Ahead &ahead,
                            float (&scores)[ROWS][MAX_BLOCK]) {
    __m512bh queries[ROWS][MAX_WIDTH / PAIRED];
    for (int r = 0; r < ROWS; ++r)
      for (int64_t c = 0; c < width; c += PAIRED) {
        const float *query = rows.queries[r] + c;
        queries[r][c / PAIRED] = _mm512_cvtne2ps_pbh(load(query + LANES), load(query));
      }
    for (int64_t token = 0; token < block.tokens; token += TOKENS) {
      const Stored *keys = block.keys + token * block.stride;
      Floats sums[ROWS][TOKENS] = {};
      for (int64_t c = 0; c < width; c += PAIRED) {
        __m512i column[TOKENS];
        for (int t = 0; t < TOKENS; ++t) column[t] = pairs(keys + t * block.stride + c);
        for (int r = 0; r < ROWS; ++r)
          for (int t = 0; t < TOKENS; ++t)
            sums[r][t] = _mm512_dpbf16_ps(sums[r][t], queries[r][c / PAIRED], (__m512bh)column[t]);
        ahead.ask(), ahead.ask();
      }
      add_up(sums, scores, token);
    }
  }

  // Two tokens at a time: their values interleaved, against a pair of weights.
  template <class Stored>
  static void add_values(const Rows &rows, const Block<Stored> &block, int64_t width, Ahead &ahead,
                         const float (&weights)[ROWS][MAX_BLOCK]) {
    alignas(64) int32_t weight_pairs[ROWS][MAX_BLOCK / 2];
    for (int r = 0; r < ROWS; ++r)
      for (int64_t t = 0; t < block.tokens; t += LANES)
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(weight_pairs[r] + t / 2),
                            (__m256i)_mm512_cvtneps_pbh(load(weights[r] + t)));
    for (int64_t c = 0; c < width; c += PAIRED) {
      Floats low[ROWS] = {}, high[ROWS] = {};
      for (int64_t t = 0; t < block.tokens; t += 2) {
        const Stored *values = block.values + t * block.stride + c;
        const bool both = t + 1 < block.tokens; // a slot that is not this sequence's may hold anything, NaN too
        const __m512i first = pairs(values), second = both ? pairs(values + block.stride) : _mm512_setzero_si512();
        const __m512bh left = (__m512bh)_mm512_unpacklo_epi16(first, second);
        const __m512bh right = (__m512bh)_mm512_unpackhi_epi16(first, second);
        for (int r = 0; r < ROWS; ++r) {
          const __m512bh pair = (__m512bh)_mm512_set1_epi32(weight_pairs[r][t / 2]);
          low[r] = _mm512_dpbf16_ps(low[r], left, pair);
          high[r] = _mm512_dpbf16_ps(high[r], right, pair);
        }
        ahead.ask();
      }
      // Interleaving works within each 128 bits: `low` has the channels 0-3, 8-11 and so on, `high` the others.
      const __m512i even = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
      const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(8));
      for (int r = 0; r < ROWS; ++r) {
        float *sums = rows.sums[r] + c;
        store(sums, load(sums) + _mm512_permutex2var_ps(low[r], even, high[r]));
        store(sums + LANES, load(sums + LANES) + _mm512_permutex2var_ps(low[r], odd, high[r]));
      }
    }
  }
};

} // namespace

EXPORT int paged_attention_paired_avx512_bf16(const PagedCall *call, int64_t stored, int64_t threads) {
  const int count = static_cast<int>(threads);
  return stored == BFLOAT16 ? attend<Paired, bfloat16>(*call, count) : attend<Paired, int8_t>(*call, count);
}
