// Products with packed weights: all but the innermost loop, which is each processor's own.
//
// Inputs are rounded to 8 bits by groups of 32, as kernels/packed_linear.py's quantize_inputs does and in the
// same bits, and laid out in panels of up to 16 tokens: a processor's loop then multiplies one tile of 16 weight
// rows with one panel. A panel's groups follow each other, so inputs and weights are both read straight on.
// Tokens are blocked so that a block's codes stay in the second-level cache while all tiles pass by.
#pragma once

#include "packed_call.h"
#include "parallel.h"
#ifdef __aarch64__
#include "packed_rows_neon.h"
#else
#include "packed_rows_x86.h"
#endif

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
constexpr int64_t KEPT_BYTES = 16 << 20;   // at most what a thread keeps for inputs' codes between calls
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

// Rows `first` to `last` of one token's sums.
void store_rows(const float *sums, const Rows &out, int64_t token, int64_t first, int64_t last) {
  char *to = static_cast<char *>(out.start) + (token * out.stride + first) * element_bytes(out.dtype);
  for (int64_t row = first; row < last; row += TILE_ROWS, sums += TILE_ROWS, to += TILE_ROWS * element_bytes(out.dtype))
    store(sums, to, out.dtype, std::min<int64_t>(TILE_ROWS, last - row));
}

// Memory that a thread keeps from one call to the next: pages that the system clears anew for each call took a tenth
// of the time of a product of a thousand tokens with a thousand rows.
class Kept {
public:
  ~Kept() { std::free(memory_); }

  // Null when there is none.
  char *take(int64_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      memory_ = static_cast<char *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      size_ = memory_ ? bytes : 0;
    }
    return memory_;
  }

  // Ends the use of what was taken last.
  void give_back() {
    if (size_ <= KEPT_BYTES) return;
    std::free(memory_);
    memory_ = nullptr, size_ = 0;
  }

private:
  char *memory_ = nullptr;
  int64_t size_ = 0;
};

thread_local Kept kept;

// All panels of quantized inputs, in one piece of memory; a thread has one at a time.
class Panels {
public:
  Panels(const Rows &inputs, const Weight &weight)
      : inputs_(inputs), groups_(weight.groups()), minimums_(weight.minimums != nullptr),
        centre_(centre_of(weight.bits)) {
    const int64_t cells = inputs.tokens * groups_;
    memory_ = kept.take(cells * (GROUP + 8));
    codes_ = reinterpret_cast<int8_t *>(memory_);
    scales_ = reinterpret_cast<float *>(memory_ + cells * GROUP);
    shares_ = scales_ + cells;
  }
  ~Panels() { kept.give_back(); }
  Panels(const Panels &) = delete;

  bool allocated() const { return memory_ != nullptr; }

  Panel at(int64_t token) const {
    const int64_t cell = token * groups_;
    return {codes_ + cell * GROUP, scales_ + cell, shares_ + cell};
  }

  // The part of thread `index` of `count`.
  void quantize(int index, int count) {
    const int64_t cells = inputs_.tokens * groups_, end = cells * (index + 1) / count;
    for (int64_t cell = cells * index / count; cell < end;) {
      const int64_t token = cell / groups_, group = cell % groups_, stop = std::min(groups_, group + end - cell);
      quantize_groups(token, group, stop);
      cell += stop - group;
    }
  }

private:
  // The groups `group` to `stop` of a token.
  void quantize_groups(int64_t token, int64_t group, int64_t stop) {
    const int64_t bytes = GROUP * element_bytes(inputs_.dtype), first = token / PANEL_TOKENS * PANEL_TOKENS;
    const int64_t width = std::min<int64_t>(PANEL_TOKENS, inputs_.tokens - first);
    const char *from = static_cast<const char *>(inputs_.start) + token * inputs_.stride * element_bytes(inputs_.dtype);
    int64_t place = first * groups_ + group * width + token - first;
    for (; group < stop; ++group, place += width) {
      int32_t sum;
      scales_[place] = quantize_group(from + group * bytes, inputs_.dtype, codes_ + place * GROUP, sum);
      if (minimums_) {
        shares_[place] = scales_[place] * static_cast<float>(sum);
      } else {
        sum *= -centre_;
        std::memcpy(shares_ + place, &sum, 4);
      }
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

// `count` products in one pass of the threads: of the same inputs, at most PANEL_TOKENS if there are several, with
// weights of the same columns and bits that all have minimums or have none, so that inputs are rounded once.
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
