// Products with packed weights: all but the innermost loop, which is each processor's own.
//
// Inputs are rounded to 8 bits by groups of 32, as kernels/packed_linear.py's quantize_inputs does and in the
// same bits, and laid out in panels of up to 16 tokens: a processor's loop then multiplies one tile of 16 weight
// rows with one panel. A panel's groups follow each other, so inputs and weights are both read straight on.
// Tokens are blocked so that a block's codes stay in the second-level cache while all tiles pass by.
#pragma once

#include "packed_call.h"
#include "parallel.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace {

constexpr int PANEL_TOKENS = 16;
constexpr int64_t BLOCK_BYTES = 512 << 10; // of input codes: half of a usual second-level cache
// Of weight codes that a thread takes at most at a time: read once, long stretches; read for panel after panel, what
// stays in the second-level cache.
constexpr int64_t LONG_CHUNK_BYTES = 1 << 20, CHUNK_BYTES = 192 << 10;
constexpr int64_t ALONE_CELLS = 1024;      // groups of inputs that are rounded sooner than threads could share them
constexpr int64_t CHUNK_TILES = 32;        // at most: so many tiles' outputs are kept until they are written

// Up to 16 tokens' inputs: codes [group][token][32], scales and shares [group][token].
struct Panel {
  const int8_t *codes;
  const float *scales;
  // What is added for each group beside the codes' product: -centre * sum(codes) as int32 where weights are
  // centred (it goes into the whole number), else scale * sum(codes) as float32 (it multiplies the minimum).
  const float *shares;
};

// A tile's product with a panel of TOKENS tokens: each processor's file defines it. Token t's 16 sums go to
// out + t * OUT_STRIDE.
constexpr int64_t OUT_STRIDE = CHUNK_TILES * TILE_ROWS;
template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void tile_product(const Weight &weight, int64_t tile, const Panel &panel, float *out);

using TileProduct = void (*)(const Weight &, int64_t, const Panel &, float *);

// The products with 1 to 16 tokens.
template <int BITS, bool MINIMUMS, bool SUPER, size_t... N> const TileProduct *table(std::index_sequence<N...>) {
  static constexpr TileProduct products[] = {tile_product<BITS, MINIMUMS, SUPER, N + 1>...};
  return products;
}

template <int BITS> const TileProduct *products_for(bool minimums, bool super) {
  constexpr auto counts = std::make_index_sequence<PANEL_TOKENS>();
  if constexpr (BITS == 3) return super ? table<3, false, true>(counts) : table<3, false, false>(counts);
  if (minimums) return super ? table<BITS, true, true>(counts) : table<BITS, true, false>(counts);
  return super ? table<BITS, false, true>(counts) : table<BITS, false, false>(counts);
}

int64_t element_bytes(int64_t dtype) { return dtype == FLOAT32 ? 4 : 2; }

__m256 load8(const char *from, int64_t dtype) {
  if (dtype == FLOAT32) return _mm256_loadu_ps(reinterpret_cast<const float *>(from));
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
  if (dtype == FLOAT16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

// Float32 to bfloat16, half to even; a NaN keeps its top bits and gets one that no rounding can carry away.
__m128i bfloat16_of(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

// The first `count` of 16 sums to the outputs.
void store(const float *sums, char *to, int64_t dtype, int64_t count) {
  const __m256 low = _mm256_loadu_ps(sums), high = _mm256_loadu_ps(sums + 8);
  __m256i values[2] = {_mm256_castps_si256(low), _mm256_castps_si256(high)};
  if (dtype == BFLOAT16) values[0] = _mm256_set_m128i(bfloat16_of(high), bfloat16_of(low));
  if (dtype == FLOAT16)
    values[0] = _mm256_set_m128i(_mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT),
                                 _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
  if (count < TILE_ROWS) {
    std::memcpy(to, values, count * element_bytes(dtype));
    return;
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), values[0]);
  if (dtype == FLOAT32) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to) + 1, values[1]);
}

// Rows `first` to `last` of one token's sums.
void store_rows(const float *sums, const Rows &out, int64_t token, int64_t first, int64_t last) {
  char *to = static_cast<char *>(out.start) + (token * out.stride + first) * element_bytes(out.dtype);
  for (int64_t row = first; row < last; row += TILE_ROWS, sums += TILE_ROWS, to += TILE_ROWS * element_bytes(out.dtype))
    store(sums, to, out.dtype, std::min<int64_t>(TILE_ROWS, last - row));
}

// One group of 32 inputs in 8 bits: returns the scale, writes codes and their sum. A group that holds a NaN or an
// infinity gets the scale NaN, which every sum of its token then is.
float quantize_group(const char *from, int64_t dtype, int8_t *codes, int32_t &sum) {
  __m256 values[4];
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    values[i] = load8(from + 8 * i * element_bytes(dtype), dtype);
    // As whole numbers magnitudes are ordered too, with infinity and NaN above all else.
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(values[i]), _mm256_set1_epi32(0x7fffffff));
    largest = _mm256_max_epu32(largest, magnitude);
  }
  __m128i top = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0x4e));
  top = _mm_max_epu32(top, _mm_shuffle_epi32(top, 0xb1));
  const float scale = _mm_cvtss_f32(_mm_castsi128_ps(top)) / 127.0f;
  sum = 0;
  if (!(scale >= 0x1p-126f && scale <= 0x1.fffffep127f)) { // too small to invert, or not finite
    std::memset(codes, 0, GROUP);
    return scale < 0x1p-126f ? scale : __builtin_nanf("");
  }
  const __m256 inverse = _mm256_set1_ps(1.0f / scale);
  __m256i whole[4], total = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], inverse));
    total = _mm256_add_epi32(total, whole[i]);
  }
  const __m256i low = _mm256_packs_epi32(whole[0], whole[1]), high = _mm256_packs_epi32(whole[2], whole[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); // packing works within 128 bits
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(codes), bytes);
  __m128i added = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  added = _mm_add_epi32(added, _mm_shuffle_epi32(added, 0x4e));
  added = _mm_add_epi32(added, _mm_shuffle_epi32(added, 0xb1));
  sum = _mm_cvtsi128_si32(added);
  return scale;
}

// All panels of quantized inputs, in one piece of memory.
class Panels {
public:
  Panels(const Rows &inputs, const Weight &weight)
      : inputs_(inputs), groups_(weight.groups()), minimums_(weight.minimums != nullptr),
        centre_(centre_of(weight.bits)) {
    const int64_t cells = inputs.tokens * groups_;
    memory_ = static_cast<char *>(std::aligned_alloc(64, (cells * (GROUP + 8) + 63) / 64 * 64));
    codes_ = reinterpret_cast<int8_t *>(memory_);
    scales_ = reinterpret_cast<float *>(memory_ + cells * GROUP);
    shares_ = scales_ + cells;
  }
  ~Panels() { std::free(memory_); }
  Panels(const Panels &) = delete;

  bool allocated() const { return memory_ != nullptr; }

  Panel at(int64_t token) const {
    const int64_t cell = token * groups_;
    return {codes_ + cell * GROUP, scales_ + cell, shares_ + cell};
  }

  // The part of thread `index` of `count`.
  void quantize(int index, int count) {
    const int64_t cells = inputs_.tokens * groups_;
    for (int64_t cell = cells * index / count; cell < cells * (index + 1) / count; ++cell)
      quantize_cell(cell / groups_, cell % groups_);
  }

private:
  void quantize_cell(int64_t token, int64_t group) {
    const char *from = static_cast<const char *>(inputs_.start) +
                       (token * inputs_.stride + group * GROUP) * element_bytes(inputs_.dtype);
    const int64_t first = token / PANEL_TOKENS * PANEL_TOKENS;
    const int64_t width = std::min<int64_t>(PANEL_TOKENS, inputs_.tokens - first);
    const int64_t place = first * groups_ + group * width + token - first;
    int32_t sum;
    scales_[place] = quantize_group(from, inputs_.dtype, codes_ + place * GROUP, sum);
    if (minimums_) {
      shares_[place] = scales_[place] * static_cast<float>(sum);
    } else {
      sum *= -centre_;
      std::memcpy(shares_ + place, &sum, 4);
    }
  }

  const Rows inputs_;
  const int64_t groups_;
  const bool minimums_;
  const int32_t centre_;
  char *memory_;
  int8_t *codes_;
  float *scales_, *shares_;
};

// Whether two products may share a call: the same few inputs, rounded once for weights that read them alike.
bool share_inputs(const PackedCall &a, const PackedCall &b) {
  return a.inputs.start == b.inputs.start && a.inputs.tokens == b.inputs.tokens && a.inputs.tokens <= PANEL_TOKENS &&
         a.weight.bits == b.weight.bits && a.weight.columns == b.weight.columns &&
         (a.weight.minimums == nullptr) == (b.weight.minimums == nullptr);
}

// The tiles `first` to `last` of a product, with the tokens `start` to `stop`.
void multiply_tiles(const PackedCall &call, const Panels &panels, int64_t start, int64_t stop, int64_t first,
                    int64_t last) {
  const Weight &weight = call.weight;
  const bool minimums = weight.minimums != nullptr, super = weight.super_scales != nullptr;
  const TileProduct *products = weight.bits == 3   ? products_for<3>(minimums, super)
                                : weight.bits == 4 ? products_for<4>(minimums, super)
                                                   : products_for<8>(minimums, super);
  alignas(64) float sums[PANEL_TOKENS * OUT_STRIDE];
  for (int64_t token = start; token < stop; token += PANEL_TOKENS) {
    const int64_t width = std::min<int64_t>(PANEL_TOKENS, stop - token);
    const Panel panel = panels.at(token);
    for (int64_t tile = first; tile < last; ++tile)
      products[width - 1](weight, tile, panel, sums + (tile - first) * TILE_ROWS);
    for (int64_t t = 0; t < width; ++t)
      store_rows(sums + t * OUT_STRIDE, call.out, token + t, first * TILE_ROWS,
                 std::min(last * TILE_ROWS, weight.rows));
  }
}

// `count` products, of which each must `share_inputs` with the first, in one pass of the threads.
// 0, or 1 when there is no memory for the inputs' codes.
int packed_linear(const PackedCall *calls, int64_t count) {
  const Rows &inputs = calls->inputs;
  const Weight &weight = calls->weight;
  if (inputs.tokens == 0) return 0;
  Panels panels(inputs, weight);
  if (!panels.allocated()) return 1;
  int64_t tiles = 0;
  for (int64_t at = 0; at < count; ++at) tiles += calls[at].weight.tiles();
  const int64_t tile_bytes = weight.columns * weight.bits * TILE_ROWS / 8;
  const int64_t chunk_bytes = inputs.tokens <= PANEL_TOKENS ? LONG_CHUNK_BYTES : CHUNK_BYTES;
  const int64_t block = std::max<int64_t>(1, BLOCK_BYTES / (weight.columns * PANEL_TOKENS)) * PANEL_TOKENS;
  const int64_t blocks = (inputs.tokens + block - 1) / block;
  Stretches stretches(blocks * tiles, std::min(chunk_bytes / tile_bytes, CHUNK_TILES), calls->threads);
  const bool alone = inputs.tokens * weight.groups() <= ALONE_CELLS;
  if (alone) panels.quantize(0, 1);
  parallel(static_cast<int>(calls->threads), [&](int index, int team) {
    if (!alone) {
      panels.quantize(index, team);
      barrier(team);
    }
    for (int64_t begin, end; stretches.take(tiles, begin, end);) {
      const int64_t start = begin / tiles * block, stop = std::min(start + block, inputs.tokens);
      int64_t first = begin % tiles, last = first + end - begin;
      for (const PackedCall *call = calls; last > 0; ++call) { // the stretch may reach over several weights
        const int64_t there = call->weight.tiles();
        if (first < there) multiply_tiles(*call, panels, start, stop, first, std::min(last, there));
        first = std::max<int64_t>(first - there, 0), last -= there;
      }
    }
  });
  return 0;
}

} // namespace
