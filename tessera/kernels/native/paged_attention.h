// Attention of a few new tokens over a paged cache, read in place; the twin is paged_attention_twin in
// kernels/paged_attention.py.
//
// A sequence's context is cut into splits that threads take one by one (flash decoding); each keeps for every query
// its largest score, the sum of the weights and the weighted values (online softmax, arXiv 1805.02867), and a second
// pass merges the splits. Where the cuts are depends on the context alone, so neither the number of threads nor the
// other sequences change a result. The heads of a token lie side by side, and all are attended before the next block:
// memory is read once and in order. Scores are kept times log2(e), since powers of two are cheap.
#pragma once

#include <cmath>

#include "paged_call.h"
#include "parallel.h"
#include "vector.h"

namespace {

enum State { HIGHEST, TOTAL, ROOM = 16 }; // after the sums of a row of `partial`; 16 keep the rows aligned alike

constexpr int LINE = 64, TOKENS = 4, MAX_BLOCK = 32, MAX_WIDTH = 256;

#ifdef __AVX512F__
constexpr int ROWS = 4; // ROWS * TOKENS sums stay in registers

inline __m256i half_of(const void *from) {
  return _mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i *>(from)));
}
inline Floats load_half(const float *from) { return _mm512_maskz_loadu_ps(0xff, from); }
inline Floats load_half(const bfloat16 *from) {
  return reinterpret<Floats>(widen(reinterpret<Halves>(half_of(from))));
}
inline Floats load_half(const float16 *from) { return _mm512_cvtph_ps(half_of(from)); }
inline Floats load_half(const int8_t *from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
}
inline void store_half(float *to, Floats value) { _mm512_mask_storeu_ps(to, 0xff, value); }

// 2^x for whole numbers from -127 (which gives 0) to 0.
inline Floats power_of_two(Floats x) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}

// Each vector's lanes added up, in a tree: 4 rows of 4 tokens to 16 numbers.
inline void add_up(const Floats (&sums)[ROWS][TOKENS], float (&scores)[ROWS][MAX_BLOCK], int64_t token) {
  Floats rows[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    const Floats *s = sums[r];
    const Floats ab = _mm512_unpacklo_ps(s[0], s[1]) + _mm512_unpackhi_ps(s[0], s[1]);
    const Floats cd = _mm512_unpacklo_ps(s[2], s[3]) + _mm512_unpackhi_ps(s[2], s[3]);
    rows[r] = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);
  }
  const Floats ab = _mm512_shuffle_f32x4(rows[0], rows[1], 0x88) + _mm512_shuffle_f32x4(rows[0], rows[1], 0xdd);
  const Floats cd = _mm512_shuffle_f32x4(rows[2], rows[3], 0x88) + _mm512_shuffle_f32x4(rows[2], rows[3], 0xdd);
  const Floats all = _mm512_shuffle_f32x4(ab, cd, 0x88) + _mm512_shuffle_f32x4(ab, cd, 0xdd);
  _mm_storeu_ps(scores[0] + token, _mm512_extractf32x4_ps(all, 0));
  _mm_storeu_ps(scores[1] + token, _mm512_extractf32x4_ps(all, 1));
  _mm_storeu_ps(scores[2] + token, _mm512_extractf32x4_ps(all, 2));
  _mm_storeu_ps(scores[3] + token, _mm512_extractf32x4_ps(all, 3));
}
#else
constexpr int ROWS = 2;

// A width is a multiple of 8, so there is never half a vector.
template <class Number> Floats load_half(const Number *from) { return load(from); }
inline void store_half(float *to, Floats value) { store(to, value); }

inline Floats power_of_two(Floats x) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

inline void add_up(const Floats (&sums)[ROWS][TOKENS], float (&scores)[ROWS][MAX_BLOCK], int64_t token) {
  Floats rows[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    const Floats *s = sums[r];
    const Floats ab = _mm256_unpacklo_ps(s[0], s[1]) + _mm256_unpackhi_ps(s[0], s[1]);
    const Floats cd = _mm256_unpacklo_ps(s[2], s[3]) + _mm256_unpackhi_ps(s[2], s[3]);
    rows[r] = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
  }
  const Floats all = _mm256_permute2f128_ps(rows[0], rows[1], 0x20) + _mm256_permute2f128_ps(rows[0], rows[1], 0x31);
  _mm_storeu_ps(scores[0] + token, _mm256_castps256_ps128(all));
  _mm_storeu_ps(scores[1] + token, _mm256_extractf128_ps(all, 1));
}
#endif

template <bool PART, class Number> Floats load_column(const Number *from) {
  return PART ? load_half(from) : load(from);
}

template <bool PART> void store_column(float *to, Floats value) { PART ? store_half(to, value) : store(to, value); }

// 2^x for x <= 0 to the last bits of float32; 0 below 2^-126; NaN stays NaN.
static inline Floats exp2_of(Floats x) {
  x = larger(all(-127.0f), x); // in this order NaN wins
  const Floats whole = nearest(x), rest = x - whole;
  // The series of 2^rest, |rest| <= 1/2: the terms are ln(2)^k / k!, the highest first.
  constexpr float terms[] = {1.5252734e-5f, 1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f,
                             5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f};
  Floats sum = all(terms[0]);
  for (int k = 1; k < 8; ++k) sum = fused(sum, rest, all(terms[k]));
  return sum * power_of_two(whole);
}

static inline float exp2_of(float x) { return exp2_of(all(x))[0]; }

// Up to ROWS queries that share a key/value head; spare rows repeat the first query, into a row nobody reads.
struct Rows {
  const float *queries[ROWS];
  float *sums[ROWS];
  int64_t visible[ROWS]; // tokens of the block that a query may see; negative where they all come later
};

// One block of one key/value head.
template <class Stored> struct Block {
  const Stored *keys, *values;
  int64_t tokens, stride;
  float key_scales[MAX_BLOCK], value_scales[MAX_BLOCK];
};

// The next block on its way into the cache while this one is computed: each head asks for its share of the block's
// bytes, in order, a few lines between two steps of arithmetic. Asked for at once they would fill the processor's
// queue of misses and stop it: 4096 tokens in bfloat16 took 1.9 ms so, and 3.1 ms without any asking.
struct Ahead {
  const char *keys, *values;
  int64_t lines, step; // lines left, and how many to ask for at a time

  inline void ask() {
    for (int64_t n = 0; n < step && lines > 0; ++n, --lines) {
      __builtin_prefetch(keys, 0, 2), __builtin_prefetch(values, 0, 2);
      keys += LINE, values += LINE;
    }
  }
};

// The products of one column of a vector's channels, or of PART, half as many, where the width ends.
template <bool PART, class Stored>
static inline void multiply_column(const Rows &rows, const Stored *keys, int64_t stride, int64_t c,
                                   Floats (&sums)[ROWS][TOKENS]) {
  Floats column[TOKENS];
  for (int t = 0; t < TOKENS; ++t) column[t] = load_column<PART>(keys + t * stride + c);
  for (int r = 0; r < ROWS; ++r) {
    const Floats query = load_column<PART>(rows.queries[r] + c);
    for (int t = 0; t < TOKENS; ++t) sums[r][t] = fused(query, column[t], sums[r][t]);
  }
}

// Replaces a row's scores by weights against its largest score so far; what was summed before shrinks with it.
static inline void weigh(const PagedCall &call, float *sums, int64_t visible, const float *key_scales,
                         const float *value_scales, float *scores) {
  float *state = sums + call.width;
  const Floats scale = all(static_cast<float>(call.scale)), nothing = all(-INFINITY);
  Floats most = nothing;
  for (int64_t token = 0; token < call.block_tokens; token += LANES) {
    Floats score = load(scores + token) * scale;
    if (key_scales) score = score * load(key_scales + token);
    score = first(visible - token, score, nothing);
    store(scores + token, score);
    most = larger(most, score);
  }
  const float before = state[HIGHEST], highest = std::fmax(before, largest(most));
  if (highest > before) {
    const float shrink = exp2_of(before - highest);
    for (int64_t c = 0; c < call.width; ++c) sums[c] *= shrink;
    state[HIGHEST] = highest;
    state[TOTAL] *= shrink;
  }
  Floats total = {};
  for (int64_t token = 0; token < call.block_tokens; token += LANES) {
    Floats weight = exp2_of(load(scores + token) - all(highest));
    total = total + weight;
    if (value_scales) weight = weight * load(value_scales + token);
    store(scores + token, weight);
  }
  state[TOTAL] += sum(total);
}

template <bool PART, class Stored>
static inline void add_column(const Rows &rows, const Block<Stored> &block, int64_t c, Ahead &ahead,
                              const float (&weights)[ROWS][MAX_BLOCK]) {
  Floats sums[ROWS];
  for (int r = 0; r < ROWS; ++r) sums[r] = load_column<PART>(rows.sums[r] + c);
  for (int64_t t = 0; t < block.tokens; ++t) {
    const Floats column = load_column<PART>(block.values + t * block.stride + c);
    for (int r = 0; r < ROWS; ++r) sums[r] = fused(all(weights[r][t]), column, sums[r]);
    if (t % TOKENS == 0) ahead.ask();
  }
  for (int r = 0; r < ROWS; ++r) store_column<PART>(rows.sums[r] + c, sums[r]);
}

// The products of queries with a block in float32, whatever is stored. Another file may bring faster ones.
struct Plain {
  // A score for each query and token of the block; what lies beyond its tokens is a number that nobody reads.
  template <class Stored>
  static void multiply_keys(const Rows &rows, const Block<Stored> &block, int64_t width, Ahead &ahead,
                            float (&scores)[ROWS][MAX_BLOCK]) {
    for (int64_t token = 0; token < block.tokens; token += TOKENS) {
      const Stored *keys = block.keys + token * block.stride;
      Floats sums[ROWS][TOKENS] = {};
      int64_t c = 0;
      for (; c + LANES <= width; c += LANES) {
        multiply_column<false>(rows, keys, block.stride, c, sums);
        ahead.ask();
      }
      if (c < width) multiply_column<true>(rows, keys, block.stride, c, sums);
      add_up(sums, scores, token);
    }
  }

  template <class Stored>
  static void add_values(const Rows &rows, const Block<Stored> &block, int64_t width, Ahead &ahead,
                         const float (&weights)[ROWS][MAX_BLOCK]) {
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) add_column<false>(rows, block, c, ahead, weights);
    if (c < width) add_column<true>(rows, block, c, ahead, weights);
  }
};

template <class Products, class Stored>
static inline void attend_block(const PagedCall &call, const Rows &rows, const Block<Stored> &block, Ahead &ahead,
                                float (&scores)[ROWS][MAX_BLOCK]) {
  Products::multiply_keys(rows, block, call.width, ahead, scores);
  const bool codes = call.key_scales != nullptr;
  for (int r = 0; r < ROWS; ++r) {
    const int64_t visible = rows.visible[r] < block.tokens ? rows.visible[r] : block.tokens;
    if (visible > 0)
      weigh(call, rows.sums[r], visible, codes ? block.key_scales : nullptr, codes ? block.value_scales : nullptr,
            scores[r]);
    else
      for (float &weight : scores[r]) weight = 0.0f;
  }
  Products::add_values(rows, block, call.width, ahead, scores);
}

// One split of one sequence: all its new tokens and heads.
template <class Products, class Stored>
static void attend_split(const PagedCall &call, const Sequence &sequence, int64_t split) {
  const int64_t size = call.block_tokens, width = call.width, group = call.heads / call.kv_heads;
  const int64_t first = split * sequence.split;
  const int64_t last = first + sequence.split < sequence.context ? first + sequence.split : sequence.context;
  const int64_t room = width + ROOM, num_rows = sequence.length * call.heads;
  const float *queries = call.queries + sequence.start * call.heads * width;
  float *partial = call.partial + (sequence.partial * call.heads + split * num_rows) * room;
  for (int64_t row = 0; row < num_rows; ++row) {
    float *sums = partial + row * room;
    for (int64_t c = 0; c < width; ++c) sums[c] = 0.0f;
    sums[width + HIGHEST] = -INFINITY, sums[width + TOTAL] = 0.0f;
  }
  float spare[MAX_WIDTH + ROOM] = {}, scores[ROWS][MAX_BLOCK] = {};
  Block<Stored> block = {};
  block.stride = call.kv_heads * width;
  for (int64_t begin = first; begin < last; begin += size) {
    const int32_t *number = call.blocks + sequence.table + begin / size;
    block.tokens = last - begin < size ? last - begin : size;
    for (int64_t kv = 0; kv < call.kv_heads; ++kv) {
      const int64_t at = (number[0] * size * call.kv_heads + kv) * width;
      block.keys = static_cast<const Stored *>(call.keys) + at;
      block.values = static_cast<const Stored *>(call.values) + at;
      for (int64_t t = 0; call.key_scales && t < block.tokens; ++t) {
        const int64_t slot = (number[0] * size + t) * call.kv_heads + kv;
        block.key_scales[t] = call.key_scales[slot], block.value_scales[t] = call.value_scales[slot];
      }
      Ahead ahead = {};
      if (begin + size < last) {
        const int64_t share = size * width, from = (number[1] * call.kv_heads + kv) * share;
        ahead.keys = reinterpret_cast<const char *>(static_cast<const Stored *>(call.keys) + from);
        ahead.values = reinterpret_cast<const char *>(static_cast<const Stored *>(call.values) + from);
        ahead.lines = share * static_cast<int64_t>(sizeof(Stored)) / LINE;
        // Each block is walked through twice, by TOKENS and LANES at a time.
        ahead.step = (TOKENS * LANES * static_cast<int64_t>(sizeof(Stored)) + 2 * LINE - 1) / (2 * LINE);
      }
      for (int64_t next = 0; next < sequence.length * group; next += ROWS) {
        Rows rows;
        for (int64_t r = 0; r < ROWS; ++r) {
          const bool used = next + r < sequence.length * group;
          const int64_t row = used ? next + r : 0, token = row / group;
          const int64_t number_of_row = token * call.heads + kv * group + row % group;
          rows.queries[r] = queries + number_of_row * width;
          rows.sums[r] = used ? partial + number_of_row * room : spare;
          rows.visible[r] = used ? sequence.context - sequence.length + token + 1 - begin : 0;
        }
        attend_block<Products>(call, rows, block, ahead, scores);
      }
    }
  }
}

// One row of the result from the splits' rows.
static void merge(const PagedCall &call, const Sequence &sequence, int64_t row) {
  const int64_t width = call.width, room = width + ROOM, num_rows = sequence.length * call.heads;
  const int64_t splits = (sequence.context + sequence.split - 1) / sequence.split;
  const float *partial = call.partial + (sequence.partial * call.heads + row) * room;
  float highest = -INFINITY, total = 0.0f;
  for (int64_t split = 0; split < splits; ++split)
    highest = std::fmax(highest, partial[split * num_rows * room + width + HIGHEST]);
  float *out = call.out + (sequence.start * call.heads + row) * width;
  for (int64_t c = 0; c < width; ++c) out[c] = 0.0f;
  for (int64_t split = 0; split < splits; ++split) {
    const float *sums = partial + split * num_rows * room;
    const float share = exp2_of(sums[width + HIGHEST] - highest);
    total += share * sums[width + TOTAL];
    for (int64_t c = 0; c < width; ++c) out[c] += share * sums[c];
  }
  for (int64_t c = 0; c < width; ++c) out[c] /= total;
}

template <class Products, class Stored> static int attend(const PagedCall &call, int threads) {
  int64_t next_task = 0, next_row = 0, num_rows = 0;
  for (int64_t s = 0; s < call.num_sequences; ++s) num_rows += call.sequences[s].length * call.heads;
  parallel(threads, [&](int, int count) {
    // Tasks and rows come in the order of the sequences, so each thread finds its own by walking on.
    int64_t task, row, s = 0;
    while ((task = __atomic_fetch_add(&next_task, 1, __ATOMIC_RELAXED)) < call.num_tasks) {
      while (s + 1 < call.num_sequences && call.sequences[s + 1].task <= task) ++s;
      attend_split<Products, Stored>(call, call.sequences[s], task - call.sequences[s].task);
    }
    barrier(count);
    int64_t before = 0;
    s = 0;
    while ((row = __atomic_fetch_add(&next_row, 1, __ATOMIC_RELAXED)) < num_rows) {
      while (row - before >= call.sequences[s].length * call.heads) before += call.sequences[s++].length * call.heads;
      merge(call, call.sequences[s], row - before);
    }
  });
  return 0;
}

// What keys and values are, as kernels/paged_attention.py numbers it.
enum Stored { FLOAT32, BFLOAT16, FLOAT16, INT8 };

inline int attend_plain(const PagedCall &call, int64_t stored, int64_t threads) {
  const int count = static_cast<int>(threads);
  if (stored == FLOAT32) return attend<Plain, float>(call, count);
  if (stored == BFLOAT16) return attend<Plain, bfloat16>(call, count);
  if (stored == FLOAT16) return attend<Plain, float16>(call, count);
  return attend<Plain, int8_t>(call, count);
}

} // namespace
