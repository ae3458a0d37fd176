// Attention of many queries over one sequence, without its table of scores (FlashAttention, arXiv 2205.14135).
//
// A panel of 96 queries meets 256 keys at a time: scores in float32, their softmax against the largest score so
// far, weights in bfloat16, and the weighted sum of values, all of which stay in a core's own cache. Keys and
// values of a head are laid out in pairs first, as the products want them. Blocks of keys start at key 0 whatever
// the panel, so a query's result depends neither on the queries beside it nor on how a prompt was cut.
// `Product` multiplies blocks; its `a` has whole panels, so the last panel is padded with zero queries.
#pragma once

#include <atomic>

#include <immintrin.h>

#include "export.h"
#include "parallel.h"
#include "vector.h"

namespace {

constexpr int64_t QUERIES = 96; // a multiple of 6 and of 32: the rows that the products take at once
constexpr int64_t KEYS = 256;
constexpr int64_t SCORE_STRIDE = KEYS + 16; // not a power of two: rows fall into different sets of the cache
constexpr int64_t MAX_WIDTH = 256; // of a head; the caller keeps to it
constexpr int64_t KEY_COLUMNS = 64; // packed keys: blocks of 64, each a matrix of (pairs of channels, keys)

inline int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

struct Attention {
  const bfloat16 *queries, *keys, *values;
  bfloat16 *out;
  int64_t query_strides[2], key_strides[2], value_strides[2], out_strides[2]; // token, head
  int64_t tokens, context, heads, kv_heads, width;
  bool causal;
  float scale;
  bfloat16 *packed; // for each key/value head: keys, then values

  int64_t padded_width() const { return round_up(width, 32); }
  int64_t padded_context() const { return round_up(context, KEYS); }
  int64_t packed_size() const { return padded_context() * padded_width(); } // of keys, and of values
  bfloat16 *packed_keys(int64_t kv_head) const { return packed + 2 * kv_head * packed_size(); }
  bfloat16 *packed_values(int64_t kv_head) const { return packed_keys(kv_head) + packed_size(); }
};

// 64 keys to [pair of channels][key][2]; keys beyond the context, and channels beyond the width, are zero.
inline void pack_keys(const Attention &work, int64_t kv_head, int64_t start) {
  const int64_t pairs = work.padded_width() / 2, stride = work.key_strides[0];
  bfloat16 *to = work.packed_keys(kv_head) + start * work.padded_width();
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
  for (int64_t key = 0; key < KEY_COLUMNS; key += LANES) {
    const bfloat16 *from = work.keys + (start + key) * stride + kv_head * work.key_strides[1];
    const __mmask16 seen = first_lanes(work.context - start - key);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const __mmask16 real = 2 * pair < work.width ? seen : 0;
      const __m512i words = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), real, places, from + 2 * pair, 2);
      _mm512_storeu_si512(to + 2 * (pair * KEY_COLUMNS + key), words);
    }
  }
}

// 64 values to [pair of keys][channel][2]; zero beyond the context and the width.
inline void pack_values(const Attention &work, int64_t kv_head, int64_t start) {
  const int64_t width = work.padded_width(), stride = work.value_strides[0];
  for (int64_t key = start; key < start + KEY_COLUMNS; key += 2) {
    bfloat16 *to = work.packed_values(kv_head) + key * width;
    const bfloat16 *from = work.values + key * stride + kv_head * work.value_strides[1];
    for (int64_t channel = 0; channel < width; channel += LANES) {
      const __mmask16 real = first_lanes(work.width - channel);
      const __mmask16 first = key < work.context ? real : 0, second = key + 1 < work.context ? real : 0;
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first, from + channel));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, from + stride + channel));
      _mm512_storeu_si512(to + 2 * channel, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// 2 to the power of each, to a relative error of 3e-6 (the weights are rounded to 4e-3); 2^-infinity is 0.
inline __m512 power_of_two(__m512 x) {
  const __m512 fraction = _mm512_reduce_ps(x, 1); // x - floor(x); 0 where x is infinite
  const float factors[] = {5.20114936e-2f, 0.24144274f, 0.693003833f, 1.00000262f};
  __m512 power = _mm512_set1_ps(1.35341454e-2f);
  for (const float factor : factors) power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(power, x); // times 2^floor(x)
}

// What a thread works in, on its stack: one panel's queries, scores (then weights, in the same memory), sums.
struct Room {
  alignas(64) float scores[QUERIES * SCORE_STRIDE];
  alignas(64) float sums[QUERIES * MAX_WIDTH];
  alignas(64) bfloat16 queries[QUERIES * MAX_WIDTH];
  float largest[QUERIES], total[QUERIES];
};

// Scores of one row to weights in bfloat16, in place, against the largest so far; earlier sums shrink to match.
inline void soften(float *scores, float *sums, int64_t width, float scale, float &largest, float &total) {
  __m512 tops[4];
  for (int lane = 0; lane < 4; ++lane) tops[lane] = _mm512_loadu_ps(scores + 16 * lane);
  for (int64_t key = 64; key < KEYS; key += 64)
    for (int lane = 0; lane < 4; ++lane)
      tops[lane] = _mm512_max_ps(tops[lane], _mm512_loadu_ps(scores + key + 16 * lane));
  const __m512 top = _mm512_max_ps(_mm512_max_ps(tops[0], tops[1]), _mm512_max_ps(tops[2], tops[3]));
  const float previous = largest;
  largest = __builtin_fmaxf(previous, _mm512_reduce_max_ps(top) * scale);
  const __m512 scales = _mm512_set1_ps(scale), base = _mm512_set1_ps(largest);
  __m512 weights_sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  bfloat16 *weights = reinterpret_cast<bfloat16 *>(scores);
  for (int64_t key = 0; key < KEYS; key += 32) {
    const __m512 low = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + key), scales, base));
    const __m512 high = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + key + 16), scales, base));
    weights_sum[0] = _mm512_add_ps(weights_sum[0], low);
    weights_sum[1] = _mm512_add_ps(weights_sum[1], high);
    _mm512_storeu_si512(weights + key, reinterpret<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
  const float added = _mm512_reduce_add_ps(_mm512_add_ps(weights_sum[0], weights_sum[1]));
  if (largest == previous) {
    total += added;
    return;
  }
  const float shrink = _mm512_cvtss_f32(power_of_two(_mm512_set1_ps(previous - largest)));
  total = total * shrink + added;
  for (int64_t channel = 0; channel < width; channel += 16)
    _mm512_storeu_ps(sums + channel, _mm512_mul_ps(_mm512_loadu_ps(sums + channel), _mm512_set1_ps(shrink)));
}

template <class Product> void attend_panel(const Attention &work, int64_t head, int64_t start, Room &room) {
  const int64_t width = work.padded_width(), kv_head = head / (work.heads / work.kv_heads);
  const int64_t rows = work.tokens - start < QUERIES ? work.tokens - start : QUERIES;
  const int64_t padded = round_up(rows, Product::ROWS);
  // The panel's first query sees `first` keys, each later one another; without `causal` all see all.
  const int64_t first = work.causal ? work.context - work.tokens + start + 1 : work.context;
  const int64_t seen = work.causal ? first + rows - 1 : work.context;
  const float infinity = __builtin_inff();
  memset(room.queries, 0, static_cast<size_t>(padded * width) * sizeof(bfloat16));
  memset(room.sums, 0, static_cast<size_t>(padded * width) * sizeof(float));
  for (int64_t row = 0; row < rows; ++row) {
    memcpy(room.queries + row * width,
           work.queries + (start + row) * work.query_strides[0] + head * work.query_strides[1],
           static_cast<size_t>(work.width) * sizeof(bfloat16));
    room.largest[row] = -infinity;
    room.total[row] = 0;
  }
  for (int64_t key = 0; key < seen; key += KEYS) {
    for (int64_t block = 0; block < KEYS; block += KEY_COLUMNS)
      Product::multiply(room.queries, width, work.packed_keys(kv_head) + (key + block) * width, 2 * KEY_COLUMNS,
                        room.scores + block, SCORE_STRIDE, padded, KEY_COLUMNS, width / 2, false);
    for (int64_t row = 0; row < rows; ++row) {
      float *scores = room.scores + row * SCORE_STRIDE;
      const int64_t visible = (work.causal ? first + row : work.context) - key;
      for (int64_t hidden = visible < 0 ? 0 : visible; hidden < KEYS; ++hidden) scores[hidden] = -infinity;
      soften(scores, room.sums + row * width, width, work.scale, room.largest[row], room.total[row]);
    }
    // A row of weights lies in the first half of what was its row of scores.
    Product::multiply(reinterpret_cast<bfloat16 *>(room.scores), 2 * SCORE_STRIDE,
                      work.packed_values(kv_head) + key * width, 2 * width, room.sums, width, padded, width, KEYS / 2,
                      true);
  }
  for (int64_t row = 0; row < rows; ++row) {
    bfloat16 *to = work.out + (start + row) * work.out_strides[0] + head * work.out_strides[1];
    const float *sums = room.sums + row * width, inverse = 1.0f / room.total[row];
    int64_t channel = 0;
    for (; channel + LANES <= work.width; channel += LANES) store(to + channel, load(sums + channel) * inverse);
    if (channel < work.width) store_part(to + channel, load(sums + channel) * inverse, work.width - channel);
  }
}

template <class Product> void prefill_attention(const Attention &work, int threads) {
  const int64_t panels = (work.tokens + QUERIES - 1) / QUERIES, blocks = work.padded_context() / KEY_COLUMNS;
  std::atomic<int64_t> next_block{0}, next_panel{0};
  parallel(threads, [&](int, int count) {
    for (int64_t item; (item = next_block++) < work.kv_heads * blocks;) {
      pack_keys(work, item / blocks, item % blocks * KEY_COLUMNS);
      pack_values(work, item / blocks, item % blocks * KEY_COLUMNS);
    }
    barrier(count);
    const typename Product::Session session;
    Room room;
    // Heads one after another, so that their keys stay cached; the longest panels, the last ones, first.
    for (int64_t item; (item = next_panel++) < work.heads * panels;)
      attend_panel<Product>(work, item / panels, (panels - 1 - item % panels) * QUERIES, room);
  });
}

} // namespace

#define TESSERA_PREFILL_ATTENTION(path, Product)                                                                       \
  EXPORT int prefill_attention_##path(                                                                                 \
      const bfloat16 *queries, int64_t query_token, int64_t query_head, const bfloat16 *keys, int64_t key_token,     \
      int64_t key_head, const bfloat16 *values, int64_t value_token, int64_t value_head, bfloat16 *out,              \
      int64_t out_token, int64_t out_head, bfloat16 *packed, int64_t tokens, int64_t context, int64_t heads,         \
      int64_t kv_heads, int64_t width, int64_t causal, float scale, int64_t threads) {                               \
    const Attention work = {queries, keys, values, out, {query_token, query_head}, {key_token, key_head},            \
                            {value_token, value_head}, {out_token, out_head}, tokens, context, heads, kv_heads,      \
                            width, causal != 0, scale * 1.44269504f, packed};                                        \
    prefill_attention<Product>(work, static_cast<int>(threads));                                                       \
    return 0;                                                                                                        \
  }
