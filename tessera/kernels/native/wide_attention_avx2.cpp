// Attention of all queries to all keys of one sequence in float32, where nothing wider than AVX2 is; the twin is
// PyTorch's own.
//
// Lanes are queries: a tile of 24 meets four keys, or four channels of the values, whose numbers are broadcast. A block
// of 128 keys is met by four tiles while it is in the core's second cache; its scores never leave the first
// (FlashAttention, arXiv 2205.14135). Blocks begin at key 0 whatever the tile and a lane sees no other, so a query's
// result depends neither on the queries beside it nor on the threads.
#include <algorithm>
#include <atomic>

#include "export.h"
#include "parallel.h"
#include "product_avx2.h"

namespace {

constexpr int64_t QUERIES = WIDE, TILES = 4; // keys or channels are the rows of a product
constexpr int64_t KEYS = 128;
constexpr int64_t MAX_WIDTH = 128; // of a head, a multiple of 8; the caller keeps to both
constexpr float LOWEST = -3.40282347e38f;

// What numbers are, as kernels/wide_attention.py numbers it.
enum Stored { FLOAT32, BFLOAT16, FLOAT16 };

struct Rows { // each of a sequence and a head
  void *start;
  int64_t token_stride, head_stride;

  template <class Number> Number *at(int64_t token, int64_t head) const {
    return static_cast<Number *>(start) + token * token_stride + head * head_stride;
  }
};

// What Python passes, field by field as in kernels/wide_attention.py.
struct AttentionCall {
  Rows queries, keys, values, out;
  int64_t tokens, context, heads, width;
  float *packed; // for each head and block: keys, four side by side; values, four channels side by side
  int64_t threads, stored;
  float scale; // of scores, log2(e) included

  int64_t blocks() const { return (context + KEYS - 1) / KEYS; }
  float *keys_of(int64_t head, int64_t block) const { return packed + (head * blocks() + block) * 2 * KEYS * width; }
  float *values_of(int64_t head, int64_t block) const { return keys_of(head, block) + KEYS * width; }
};

template <class Number> void widen(const Number *from, int64_t width, float *to) {
  for (int64_t channel = 0; channel < width; channel += LANES) store(to + channel, load(from + channel));
}

// Beyond the context all is zero.
template <class Number> void pack(const AttentionCall &call, int64_t head, int64_t block) {
  const int64_t width = call.width;
  float *keys = call.keys_of(head, block), *values = call.values_of(head, block);
  for (int64_t place = 0; place < KEYS; ++place) {
    float key[MAX_WIDTH] = {}, value[MAX_WIDTH] = {};
    if (const int64_t token = block * KEYS + place; token < call.context) {
      widen(call.keys.at<const Number>(token, head), width, key);
      widen(call.values.at<const Number>(token, head), width, value);
    }
    float *to = keys + place / ROWS * ROWS * width + place % ROWS;
    for (int64_t channel = 0; channel < width; ++channel) to[channel * ROWS] = key[channel];
    for (int64_t channel = 0; channel < width; channel += ROWS)
      memcpy(values + channel * KEYS + place * ROWS, value + channel, ROWS * sizeof(float));
  }
}

struct Tile {
  alignas(64) float queries[MAX_WIDTH * QUERIES]; // times the scale, a channel's side by side
  alignas(64) float sums[MAX_WIDTH * QUERIES];    // of weighted values, likewise
  // Of each query: its largest score so far, and the sum of its weights.
  alignas(64) float peaks[QUERIES], totals[QUERIES];
};

// What a thread works in, on its stack.
struct Room {
  Tile tiles[TILES];
  alignas(64) float scores[KEYS * QUERIES]; // a key's side by side; then its weights
};

template <class Number> void take_queries(const AttentionCall &call, int64_t head, int64_t first, Tile &tile) {
  for (int64_t lane = 0; lane < QUERIES; ++lane) {
    float query[MAX_WIDTH] = {};
    if (first + lane < call.tokens) widen(call.queries.at<const Number>(first + lane, head), call.width, query);
    for (int64_t channel = 0; channel < call.width; ++channel)
      tile.queries[channel * QUERIES + lane] = query[channel] * call.scale;
    tile.peaks[lane] = LOWEST; // finite, so that scores of minus infinity have a weight of zero
    tile.totals[lane] = 0;
  }
  memset(tile.sums, 0, static_cast<size_t>(call.width * QUERIES) * sizeof(float));
}

// The scores of `count` keys, and the largest of each query that is a number.
inline void score(const float *keys, int64_t count, int64_t width, const float *queries, float *scores,
                  Floats (&tops)[VECTORS]) {
  for (int v = 0; v < VECTORS; ++v) tops[v] = all(LOWEST);
  for (int64_t key = 0; key < count; key += ROWS) {
    multiply<false>(keys + key * width, queries, width, scores + key * QUERIES);
    for (int64_t row = key; row < std::min(key + ROWS, count); ++row)
#pragma GCC unroll 3
      for (int v = 0; v < VECTORS; ++v) tops[v] = larger(load(scores + row * QUERIES + v * LANES), tops[v]);
  }
}

// 2 to the power of each, at most 0, to 1.2e-7 of it (2 units of 2^-24); 0 below 2^-126.5. NaN stays NaN.
// 2^n times a polynomial on [-1/2, 1/2], fitted by Remez to 1.9e-9; what is left is rounding.
inline Floats power_of_two(Floats x) {
  const Floats magic = all(12582912.0f + 127.0f); // 1.5 * 2^23 rounds to whole numbers; the exponent's bias
  const Floats inside = larger(all(-127.0f), x);  // in this order NaN wins
  const Floats shifted = inside + magic, rest = inside - (shifted - magic);
  const Floats square = rest * rest; // pairs of terms are independent: a shorter chain than term after term
  const Floats highest = fused(all(0x1.5f456ap-10f), rest, all(0x1.3b2dbcp-7f));
  const Floats middle = fused(all(0x1.c6aed4p-5f), rest, all(0x1.ebfbdap-3f));
  const Floats lowest = fused(all(0x1.62e430p-1f), rest, all(1.0f));
  const Floats upper = fused(fused(all(0x1.41d334p-13f), square, highest), square, middle);
  return fused(upper, square, lowest) * reinterpret<Floats>(reinterpret<Words>(shifted) << 23);
}

// The scores of `count` keys to weights against the largest so far, and what earlier sums shrink by.
inline void weigh(float *scores, int64_t count, const Floats (&tops)[VECTORS], Tile &tile,
                  Floats (&shrink)[VECTORS]) {
  Floats peaks[VECTORS], totals[VECTORS] = {}; // of the block: one sum over all keys would lose more
  for (int v = 0; v < VECTORS; ++v) {
    const Floats before = load(tile.peaks + v * LANES);
    peaks[v] = larger(tops[v], before);
    shrink[v] = power_of_two(before - peaks[v]);
    store(tile.peaks + v * LANES, peaks[v]);
  }
  for (int64_t key = 0; key < count; ++key, scores += QUERIES)
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; ++v) {
      const Floats weights = power_of_two(load(scores + v * LANES) - peaks[v]);
      store(scores + v * LANES, weights);
      totals[v] += weights;
    }
  for (int v = 0; v < VECTORS; ++v) {
    float *total = tile.totals + v * LANES;
    store(total, fused(load(total), shrink[v], totals[v]));
  }
}

inline void add_values(const float *values, int64_t count, int64_t width, const float *weights,
                       const Floats (&shrink)[VECTORS], float *out) {
  alignas(64) float sums[ROWS * QUERIES];
  for (int64_t channel = 0; channel < width; channel += ROWS, out += ROWS * QUERIES) {
    multiply<false>(values + channel * KEYS, weights, count, sums);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
      for (int v = 0; v < VECTORS; ++v) {
        const int64_t at = r * QUERIES + v * LANES;
        store(out + at, fused(load(out + at), shrink[v], load(sums + at)));
      }
  }
}

template <class Number> void give_out(const AttentionCall &call, int64_t head, int64_t first, const Tile &tile) {
  for (int64_t lane = 0; lane < std::min(QUERIES, call.tokens - first); ++lane) {
    const float inverse = 1.0f / tile.totals[lane];
    float row[MAX_WIDTH];
    for (int64_t channel = 0; channel < call.width; ++channel)
      row[channel] = tile.sums[channel * QUERIES + lane] * inverse;
    Number *to = call.out.at<Number>(first + lane, head);
    for (int64_t channel = 0; channel < call.width; channel += LANES) store(to + channel, load(row + channel));
  }
}

// Some tiles of a head from query `first` on.
template <class Number> void attend_tiles(const AttentionCall &call, int64_t head, int64_t first, Room &room) {
  const int64_t tiles = std::min(TILES, (call.tokens - first + QUERIES - 1) / QUERIES);
  for (int64_t t = 0; t < tiles; ++t) take_queries<Number>(call, head, first + t * QUERIES, room.tiles[t]);
  for (int64_t block = 0; block < call.blocks(); ++block) {
    const int64_t count = std::min(KEYS, call.context - block * KEYS);
    for (int64_t t = 0; t < tiles; ++t) {
      Tile &tile = room.tiles[t];
      Floats tops[VECTORS], shrink[VECTORS];
      score(call.keys_of(head, block), count, call.width, tile.queries, room.scores, tops);
      weigh(room.scores, count, tops, tile, shrink);
      add_values(call.values_of(head, block), count, call.width, room.scores, shrink, tile.sums);
    }
  }
  for (int64_t t = 0; t < tiles; ++t) give_out<Number>(call, head, first + t * QUERIES, room.tiles[t]);
}

template <class Number> void attend(const AttentionCall &call) {
  const int64_t blocks = call.blocks(), panels = (call.tokens + TILES * QUERIES - 1) / (TILES * QUERIES);
  std::atomic<int64_t> next_block{0}, next_panel{0};
  parallel(static_cast<int>(call.threads), [&](int, int count) {
    for (int64_t item; (item = next_block++) < call.heads * blocks;) pack<Number>(call, item / blocks, item % blocks);
    barrier(count);
    Room room;
    // Heads one after another, so that their keys stay cached.
    for (int64_t item; (item = next_panel++) < call.heads * panels;)
      attend_tiles<Number>(call, item / panels, item % panels * (TILES * QUERIES), room);
  });
}

} // namespace

EXPORT int wide_attention_avx2(const AttentionCall *call) {
  if (call->stored == FLOAT32) attend<float>(*call);
  if (call->stored == BFLOAT16) attend<bfloat16>(*call);
  if (call->stored == FLOAT16) attend<float16>(*call);
  return 0;
}
