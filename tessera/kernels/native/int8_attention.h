// Attention of all queries to all keys of one sequence, in 8 bits. kernels/int8_attention.py defines it, number by
// number; every sum of products here is a whole number, so that no order of additions can differ.
//
// A tile of 12 queries meets 256 keys at a time: their scores, weights and sums stay in a core's first cache, while
// the packed keys and values of the head come from its second. Blocks of keys begin at key 0 whatever the tile, so a
// query's result depends neither on the queries beside it nor on the threads.
#pragma once

#include <atomic>

#include "export.h"
#include "parallel.h"
#include "product_vnni.h"

namespace {

constexpr int64_t QUERIES = 2 * DOT_ROWS; // each vector of keys that comes from memory serves as many rows
constexpr int64_t QUERY_LANES = 16;       // numbers of a tile's queries, padded to whole registers
constexpr int64_t KEYS = 256;
constexpr int64_t KEY_COLUMNS = 64; // keys are packed, and weights stored, as many at a time
constexpr int KEY_VECTORS = KEY_COLUMNS / LANES;
constexpr int64_t MAX_WIDTH = 256; // of a head, a multiple of 16; the caller keeps to both
constexpr int CENTRE = 128;        // queries are stored with it added, as unsigned bytes
constexpr int32_t MOST_DOUBLINGS = 8; // of a channel of the keys
constexpr float SMALLEST = 0x1p-100f; // a scale below it counts as zero: its inverse may not be finite
constexpr float LOG2_E = 1.44269504f;
constexpr float WEIGHT_FACTORS[] = {0x1.fe39dcp+7f, 0x1.66c22cp+7f, 0x1.e66520p+5f}; // 255 * 2^x, fitted by Remez

struct Rows { // each of a sequence and a head
  bfloat16 *start;
  int64_t token_stride, head_stride;

  bfloat16 *at(int64_t token, int64_t head) const { return start + token * token_stride + head * head_stride; }
};

// What Python passes, field by field as in kernels/int8_attention.py.
struct AttentionCall {
  Rows queries, keys, values, out;
  int64_t tokens, context, heads, width;
  uint8_t *packed;
  int64_t threads;
  float scale;

  int64_t blocks() const { return (context + KEYS - 1) / KEYS; }
};

// 256 keys and values of a head.
struct Block {
  int8_t *keys;    // for each 64 keys and four channels: the keys' four bytes side by side
  int8_t *values;  // for each four keys, in the order of the weights: the channels' four bytes side by side
  float *scales;   // of the keys
  float *starts;   // of their scores: 0; minus infinity beyond the context; infinity for a key that is not finite
  int32_t *centres; // of their products: takes the queries' centre off again
  // Of the channels. Tops are magnitudes of keys less their mean; all blocks of a head have the same factors.
  float *value_scales, *key_sums, *key_tops, *query_factors;

  Block(const AttentionCall &call, int64_t head, int64_t block) {
    const int64_t bytes = KEYS * call.width, numbers = 3 * KEYS + 4 * call.width;
    keys = reinterpret_cast<int8_t *>(call.packed + (head * call.blocks() + block) * (2 * bytes + 4 * numbers));
    values = keys + bytes;
    scales = reinterpret_cast<float *>(values + bytes);
    starts = scales + KEYS;
    centres = reinterpret_cast<int32_t *>(starts + KEYS);
    value_scales = reinterpret_cast<float *>(centres + KEYS);
    key_sums = value_scales + call.width;
    key_tops = key_sums + call.width;
    query_factors = key_tops + call.width;
  }
};

// How numbers are rounded to -127 to 127: NaN as the scale of those that are not finite, whose codes are then zero.
struct Rounding {
  float scale, inverse;

  // `top` is the largest magnitude; `unbounded` NaN if a number is not finite, else 0.
  Rounding(float top, float unbounded) {
    top += unbounded;
    scale = top / 127.0f;
    inverse = scale >= SMALLEST ? 127.0f / top : 0.0f; // 0 for NaN as well
  }
};

inline Floats magnitude(Floats x) { return reinterpret<Floats>(reinterpret<Words>(x) & 0x7fffffffu); }

// What is taken from a row's channels, and what they are then multiplied by.
struct Change {
  const float *means, *factors;

  Floats of(const bfloat16 *row, int64_t channel) const {
    return (load(row + channel) - load(means + channel)) * load(factors + channel);
  }
};

// The rounding of a row as changed.
inline Rounding rounding_of(const bfloat16 *row, const Change &change, int64_t width) {
  Floats tops = all(0.0f), unbounded = all(0.0f);
  for (int64_t channel = 0; channel < width; channel += LANES) {
    const Floats x = change.of(row, channel);
    tops = larger(magnitude(x), tops);
    unbounded = fused(x, all(0.0f), unbounded);
  }
  return Rounding(largest(tops), sum(unbounded));
}

inline Bytes to_codes(Floats x, float inverse) {
  return __builtin_convertvector(inverse == 0.0f ? Whole{} : to_whole(x * inverse), Bytes);
}

inline void sum_keys(const AttentionCall &call, int64_t head, int64_t block) {
  const Block to(call, head, block);
  const int64_t end = std::min((block + 1) * KEYS, call.context);
  memset(to.key_sums, 0, static_cast<size_t>(call.width) * sizeof(float));
  for (int64_t key = block * KEYS; key < end; ++key)
    for (int64_t channel = 0; channel < call.width; channel += LANES)
      store(to.key_sums + channel, load(to.key_sums + channel) + load(call.keys.at(key, head) + channel));
}

// The largest magnitude of each channel of a block's keys, less their mean.
inline void top_keys(const AttentionCall &call, int64_t head, int64_t block, const float *means) {
  const Block to(call, head, block);
  const int64_t end = std::min((block + 1) * KEYS, call.context);
  for (int64_t channel = 0; channel < call.width; channel += LANES) {
    const Floats mean = load(means + channel);
    Floats tops = all(0.0f);
    for (int64_t key = block * KEYS; key < end; ++key)
      tops = larger(magnitude(load(call.keys.at(key, head) + channel) - mean), tops);
    store(to.key_tops + channel, tops);
  }
}

inline void mean_of_keys(const AttentionCall &call, int64_t head, float *means) {
  memset(means, 0, static_cast<size_t>(call.width) * sizeof(float));
  for (int64_t channel = 0; channel < call.width; channel += LANES) {
    Floats total = all(0.0f);
    for (int64_t block = 0; block < call.blocks(); ++block)
      total = total + load(Block(call, head, block).key_sums + channel);
    store(means + channel, total / static_cast<float>(call.context));
  }
}

inline float power_of_two(int32_t exponent) { return reinterpret<float>((127 + exponent) << 23); }

// What a head's keys are multiplied by, and for this block's share its queries. A channel is doubled half as often as
// would make it the largest, by the bits of both, which grow by 2^23 when a number doubles.
inline void balance(const AttentionCall &call, int64_t head, int64_t block, float *key_factors) {
  int32_t bits[MAX_WIDTH], most = 0;
  for (int64_t channel = 0; channel < call.width; channel += LANES) {
    Floats tops = all(0.0f);
    for (int64_t other = 0; other < call.blocks(); ++other)
      tops = larger(load(Block(call, head, other).key_tops + channel), tops);
    memcpy(bits + channel, &tops, sizeof(tops));
    for (int64_t lane = 0; lane < LANES; ++lane) most = std::max(most, bits[channel + lane]);
  }
  const Block to(call, head, block);
  for (int64_t channel = 0; channel < call.width; ++channel) {
    const int32_t doublings = std::min((((most - bits[channel]) >> 23) + 1) >> 1, MOST_DOUBLINGS);
    key_factors[channel] = power_of_two(doublings);
    to.query_factors[channel] = power_of_two(-doublings);
  }
}

// 64 keys from `first`, some of which may be beyond the context.
inline void pack_keys(const AttentionCall &call, int64_t head, int64_t first, const Change &change) {
  const Block to(call, head, first / KEYS);
  const int64_t width = call.width, place = first % KEYS;
  int8_t *packed = to.keys + place * width;
  memset(packed, 0, static_cast<size_t>(KEY_COLUMNS * width));
  for (int64_t key = 0; key < KEY_COLUMNS; ++key) {
    to.scales[place + key] = 0;
    to.starts[place + key] = -__builtin_inff();
    if (first + key >= call.context) continue;
    const bfloat16 *from = call.keys.at(first + key, head);
    const Rounding rounding = rounding_of(from, change, width);
    const bool finite = rounding.scale == rounding.scale;
    to.scales[place + key] = finite ? rounding.scale : 0;
    to.starts[place + key] = finite ? 0 : __builtin_inff();
    for (int64_t channel = 0; channel < width; channel += LANES) {
      const Bytes codes = to_codes(change.of(from, channel), rounding.inverse);
      for (int64_t four = 0; four < LANES / 4; ++four)
        memcpy(packed + ((channel / 4 + four) * KEY_COLUMNS + key) * 4,
               reinterpret_cast<const char *>(&codes) + 4 * four, 4);
    }
  }
  const Whole centre = Whole{} + CENTRE * 0x01010101u;
  for (int64_t key = 0; key < KEY_COLUMNS; key += LANES) {
    Whole sums{};
    for (int64_t group = 0; group < width / 4; ++group)
      sums = dot(sums, centre, load_whole(packed + (group * KEY_COLUMNS + key) * 4));
    sums = -sums;
    memcpy(to.centres + place + key, &sums, sizeof(sums));
  }
}

// The values of a block: a scale for each channel, and fours of keys in the order of `store_bytes`.
inline void pack_values(const AttentionCall &call, int64_t head, int64_t block) {
  const Block to(call, head, block);
  const int64_t width = call.width, start = block * KEYS, end = std::min(start + KEYS, call.context);
  for (int64_t channel = 0; channel < width; channel += LANES) {
    Floats tops = all(0.0f), unbounded = all(0.0f);
    for (int64_t key = start; key < end; ++key) {
      const Floats x = load(call.values.at(key, head) + channel);
      tops = larger(magnitude(x), tops);
      unbounded = fused(x, all(0.0f), unbounded);
    }
    float inverses[LANES];
    store(to.value_scales + channel, tops);
    store(inverses, unbounded);
    for (int64_t lane = 0; lane < LANES; ++lane) {
      const Rounding rounding(to.value_scales[channel + lane], inverses[lane]);
      to.value_scales[channel + lane] = rounding.scale;
      inverses[lane] = rounding.inverse;
    }
    const Floats inverse = load(inverses);
    const Words real = reinterpret<Words>(inverse != 0.0f);
    for (int64_t four = 0; four < KEYS / 4; ++four) {
      Words codes{};
      for (int64_t key = 0; key < 4 && start + 4 * four + key < end; ++key) {
        const Floats x = load(call.values.at(start + 4 * four + key, head) + channel) * inverse;
        codes |= (reinterpret<Words>(to_whole(x)) & 0xffu) << static_cast<uint32_t>(8 * key);
      }
      codes &= real; // NaN or infinity times 0 is no code
      const int64_t turned = four / 16 * 16 + four % 4 * 4 + four / 4 % 4;
      memcpy(to.values + (turned * width + channel) * 4, &codes, sizeof(codes));
    }
  }
}

// What a thread works in, on its stack.
struct Room {
  alignas(64) float scores[QUERIES * KEYS];
  alignas(64) float tops[QUERIES * LANES];
  alignas(64) uint8_t weights[QUERIES * KEYS];
  alignas(64) uint8_t queries[QUERIES * MAX_WIDTH];
  alignas(64) float sums[QUERIES * MAX_WIDTH];
  // Of each query: what its scores are multiplied by; in the block the largest score, the sum of weights, and what that
  // is multiplied by; of all blocks so far the largest score, the sum of weights, and what those are multiplied by.
  alignas(64) float factors[QUERY_LANES], largest[QUERY_LANES], added[QUERY_LANES], grow[QUERY_LANES];
  alignas(64) float peaks[QUERY_LANES], totals[QUERY_LANES], shrink[QUERY_LANES];
};

inline void take_queries(const AttentionCall &call, int64_t head, int64_t start, Room &room) {
  const float none[MAX_WIDTH] = {};
  const Change change{none, Block(call, head, 0).query_factors};
  memset(room.queries, CENTRE, static_cast<size_t>(QUERIES * call.width));
  memset(room.sums, 0, static_cast<size_t>(QUERIES * call.width) * sizeof(float));
  for (int64_t row = 0; row < QUERY_LANES; ++row) {
    room.peaks[row] = -__builtin_inff();
    room.factors[row] = room.largest[row] = room.added[row] = room.totals[row] = 0;
    if (row >= QUERIES || start + row >= call.tokens) continue;
    const bfloat16 *from = call.queries.at(start + row, head);
    const Rounding rounding = rounding_of(from, change, call.width);
    // Any factor above zero serves a query of zeros.
    room.factors[row] = (rounding.scale < SMALLEST ? 1.0f : rounding.scale) * call.scale;
    for (int64_t channel = 0; channel < call.width; channel += LANES) {
      const Bytes codes = to_codes(change.of(from, channel), rounding.inverse) ^ static_cast<int8_t>(-CENTRE);
      memcpy(room.queries + row * call.width + channel, &codes, sizeof(codes));
    }
  }
}

// Scores of all queries of the tile with `columns` keys of the block, and the largest of each query, lane by lane.
inline void score(const Block &block, int64_t width, int64_t columns, Room &room) {
  for (int64_t lane = 0; lane < QUERIES * LANES; lane += LANES) store(room.tops + lane, all(-__builtin_inff()));
  for (int64_t key = 0; key < columns; key += KEY_COLUMNS)
    for (int64_t first = 0; first < QUERIES; first += DOT_ROWS) {
      Whole sums[DOT_ROWS][KEY_VECTORS];
      for (int v = 0; v < KEY_VECTORS; ++v) {
        const Whole centre = load_whole(block.centres + key + LANES * v);
        for (int row = 0; row < DOT_ROWS; ++row) sums[row][v] = centre;
      }
      add_dots(room.queries + first * width, width, block.keys + key * width, 4 * KEY_COLUMNS, width / 4, sums);
#pragma GCC unroll 6
      for (int row = 0; row < DOT_ROWS; ++row) {
        float *scores = room.scores + (first + row) * KEYS + key;
        Floats top = load(room.tops + (first + row) * LANES);
        for (int v = 0; v < KEY_VECTORS; ++v) {
          const Floats each = fused(to_floats(sums[row][v]), load(block.scales + key + LANES * v),
                                    load(block.starts + key + LANES * v));
          store(scores + LANES * v, each);
          top = larger(each, top);
        }
        store(room.tops + (first + row) * LANES, top);
      }
    }
}

// 255 times 2 to the power of each as whole numbers; x is at most 0 and -16 stands for all below. On [-1/2, 1/2] the
// polynomial is off by 0.17 % at most.
inline Whole weights_of(Floats x) {
  const Floats magic = all(12582912.0f); // 1.5 * 2^23: adding it rounds to whole numbers
  const Floats inside = larger(x, all(-16.0f)); // which NaN becomes too
  const Floats shifted = inside + magic, rest = inside - (shifted - magic);
  const Floats power = fused(fused(all(WEIGHT_FACTORS[2]), rest, all(WEIGHT_FACTORS[1])), rest, all(WEIGHT_FACTORS[0]));
  return to_whole(reinterpret<Floats>(reinterpret<Words>(power) + (reinterpret<Words>(shifted) << 23)));
}

// One query's scores to weights, of which the largest is 255; returns their sum.
inline float weigh(const float *scores, int64_t columns, float largest, float factor, uint8_t *weights) {
  Whole total{};
  const Whole ones = Whole{} + 0x01010101;
  for (int64_t key = 0; key < columns; key += KEY_COLUMNS) {
    Whole each[KEY_VECTORS];
    for (int v = 0; v < KEY_VECTORS; ++v)
      each[v] = weights_of((load(scores + key + LANES * v) - largest) * factor);
    store_bytes(weights + key, each);
    for (int64_t byte = 0; byte < KEY_COLUMNS; byte += 4 * LANES)
      total = dot(total, load_whole(weights + key + byte), ones);
  }
  return sum(to_floats(total)); // below 2^24: exact
}

// The block's largest scores and sums of weights join those of the blocks before it.
inline void join(Room &room) {
  for (int64_t row = 0; row < QUERY_LANES; row += LANES) {
    const Floats peak = load(room.largest + row) * load(room.factors + row), before = load(room.peaks + row);
    const Floats after = larger(peak, before), shrink = exponential(before - after), grow = exponential(peak - after);
    const Floats total = fused(load(room.added + row), grow, load(room.totals + row) * shrink);
    store(room.peaks + row, after);
    store(room.shrink + row, shrink);
    store(room.grow + row, grow);
    store(room.totals + row, total + (peak - peak)); // NaN for good if the largest score is not finite
  }
}

// The weighted sums of 16 * `VECTORS` or fewer channels from `channel` on.
template <int VECTORS>
inline void add_values(const Block &block, int64_t width, int64_t columns, int64_t channel, Room &room) {
  for (int64_t first = 0; first < QUERIES; first += DOT_ROWS) {
    Whole sums[DOT_ROWS][VECTORS] = {};
    add_dots(room.weights + first * KEYS, KEYS, block.values + 4 * channel, 4 * width, columns / 4, sums);
#pragma GCC unroll 6
    for (int row = 0; row < DOT_ROWS; ++row) {
      const Floats grow = all(room.grow[first + row]), shrink = all(room.shrink[first + row]);
      float *to = room.sums + (first + row) * width + channel;
      for (int v = 0; v < VECTORS; ++v) {
        const Floats added = to_floats(sums[row][v]) * load(block.value_scales + channel + LANES * v);
        store(to + LANES * v, fused(added, grow, load(to + LANES * v) * shrink));
      }
    }
  }
}

inline void attend_tile(const AttentionCall &call, int64_t head, int64_t start, Room &room) {
  constexpr int QUARTER = 16 / LANES;
  const int64_t width = call.width;
  take_queries(call, head, start, room);
  for (int64_t number = 0; number < call.blocks(); ++number) {
    const Block block(call, head, number);
    const int64_t keys = std::min(call.context - number * KEYS, KEYS);
    const int64_t columns = (keys + KEY_COLUMNS - 1) / KEY_COLUMNS * KEY_COLUMNS;
    score(block, width, columns, room);
    for (int64_t row = 0; row < QUERIES; ++row) {
      room.largest[row] = largest(load(room.tops + row * LANES));
      room.added[row] = weigh(room.scores + row * KEYS, columns, room.largest[row], room.factors[row] * LOG2_E,
                              room.weights + row * KEYS);
    }
    join(room);
    int64_t channel = 0;
    for (; channel + 64 <= width; channel += 64) add_values<4 * QUARTER>(block, width, columns, channel, room);
    if (width - channel == 48) add_values<3 * QUARTER>(block, width, columns, channel, room);
    if (width - channel == 32) add_values<2 * QUARTER>(block, width, columns, channel, room);
    if (width - channel == 16) add_values<QUARTER>(block, width, columns, channel, room);
  }
  for (int64_t row = 0; row < std::min(QUERIES, call.tokens - start); ++row) {
    const float inverse = 1.0f / room.totals[row];
    for (int64_t channel = 0; channel < width; channel += LANES)
      store(call.out.at(start + row, head) + channel, load(room.sums + row * width + channel) * inverse);
  }
}

inline void attend(const AttentionCall &call) {
  const int64_t blocks = call.blocks(), tiles = (call.tokens + QUERIES - 1) / QUERIES;
  std::atomic<int64_t> next_sum{0}, next_top{0}, next_block{0}, next_tile{0};
  parallel(static_cast<int>(call.threads), [&](int, int count) {
    for (int64_t item; (item = next_sum++) < call.heads * blocks;) sum_keys(call, item / blocks, item % blocks);
    barrier(count);
    for (int64_t item; (item = next_top++) < call.heads * blocks;) {
      float means[MAX_WIDTH];
      mean_of_keys(call, item / blocks, means);
      top_keys(call, item / blocks, item % blocks, means);
    }
    barrier(count);
    for (int64_t item; (item = next_block++) < call.heads * blocks;) {
      const int64_t head = item / blocks, block = item % blocks;
      float means[MAX_WIDTH], factors[MAX_WIDTH];
      mean_of_keys(call, head, means);
      balance(call, head, block, factors);
      for (int64_t key = 0; key < KEYS; key += KEY_COLUMNS)
        pack_keys(call, head, block * KEYS + key, {means, factors});
      pack_values(call, head, block);
    }
    barrier(count);
    Room room;
    // Heads one after another, so that their keys stay cached.
    for (int64_t item; (item = next_tile++) < call.heads * tiles;)
      attend_tile(call, item / tiles, item % tiles * QUERIES, room);
  });
}

} // namespace
