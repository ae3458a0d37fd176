// The chains between the matrix products, one pass over memory each, all in float32 inside.
//
// Rows are shared among threads. Sums have an order that depends on the width alone, so a row's result does not
// depend on the rows beside it. The twins are in tessera/kernels/elementwise.py.
#pragma once

#include "export.h"
#include "parallel.h"
#include "vector.h"

namespace {

// The share of `count` things that thread `index` of `threads` does.
struct Share {
  int64_t begin, end;
  Share(int64_t count, int index, int threads)
      : begin(count * index / threads), end(count * (index + 1) / threads) {}
};

// out = x / sqrt(mean(x^2) + eps) * weight, row by row.
template <class Number>
void rms_norm(const Number *x, int64_t x_stride, const Number *weight, Number *out, int64_t rows, int64_t width,
              float eps, int threads) {
  parallel(threads, [=](int index, int count) {
    const Share share(rows, index, count);
    const int64_t whole = width / LANES * LANES, rest = width - whole;
    for (int64_t row = share.begin; row < share.end; ++row) {
      const Number *from = x + row * x_stride;
      Number *to = out + row * width;
      Floats sums[4] = {};
      int64_t column = 0;
      for (; column + 4 * LANES <= whole; column += 4 * LANES)
        for (int part = 0; part < 4; ++part) {
          const Floats value = load(from + column + part * LANES);
          sums[part] += value * value;
        }
      for (; column < whole; column += LANES) {
        const Floats value = load(from + column);
        sums[0] += value * value;
      }
      if (rest) {
        const Floats value = load_part(from + whole, rest);
        sums[1] += value * value;
      }
      const float mean = sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<float>(width);
      const float scale = 1.0f / __builtin_sqrtf(mean + eps);
      for (column = 0; column < whole; column += LANES)
        store(to + column, load(from + column) * scale * load(weight + column));
      if (rest) store_part(to + whole, load_part(from + whole, rest) * scale * load_part(weight + whole, rest), rest);
    }
  });
}

inline Floats silu_times(Floats gate, Floats up) { return gate / (exponential(-gate) + 1.0f) * up; }

// gate = silu(gate) * up, in place.
template <class Number>
void silu_gate(Number *gate, int64_t gate_stride, const Number *up, int64_t up_stride, int64_t rows, int64_t width,
               int threads) {
  parallel(threads, [=](int index, int count) {
    const Share share(rows, index, count);
    const int64_t whole = width / LANES * LANES, rest = width - whole;
    for (int64_t row = share.begin; row < share.end; ++row) {
      Number *to = gate + row * gate_stride;
      const Number *from = up + row * up_stride;
      for (int64_t column = 0; column < whole; column += LANES)
        store(to + column, silu_times(load(to + column), load(from + column)));
      if (rest)
        store_part(to + whole, silu_times(load_part(to + whole, rest), load_part(from + whole, rest)), rest);
    }
  });
}

inline Pairs turned(Pairs x, Floats cos, Floats sin) {
  return {x.even * cos - x.odd * sin, x.even * sin + x.odd * cos};
}

inline void store_pairs(bfloat16 *to, Pairs pairs) {
  const Words words = (round_to_bfloat16(pairs.even) >> 16) | (round_to_bfloat16(pairs.odd) & 0xffff0000u);
  memcpy(to, &words, sizeof(words));
}

inline Pairs load_pairs(const float *from) { return part(load(from), load(from + LANES)); }

inline void store_pairs(float *to, Pairs pairs) {
  Floats first, second;
  join(pairs, first, second);
  store(to, first);
  store(to + LANES, second);
}

// Turns the channel pairs (2i, 2i + 1) of each head of each token, in place; cos and sin are (tokens, pairs).
template <class Number>
void rotate(Number *x, int64_t token_stride, int64_t head_stride, const float *cos, const float *sin, int64_t tokens,
            int64_t heads, int64_t pairs, int threads) {
  parallel(threads, [=](int index, int count) {
    const Share share(tokens, index, count);
    const int64_t whole = pairs / LANES * LANES, rest = pairs - whole;
    for (int64_t token = share.begin; token < share.end; ++token) {
      const float *cosines = cos + token * pairs, *sines = sin + token * pairs;
      for (int64_t head = 0; head < heads; ++head) {
        Number *at = x + token * token_stride + head * head_stride;
        for (int64_t pair = 0; pair < whole; pair += LANES)
          store_pairs(at + 2 * pair, turned(load_pairs(at + 2 * pair), load(cosines + pair), load(sines + pair)));
        if (rest) {
          Number padded[2 * LANES] = {};
          memcpy(padded, at + 2 * whole, 2 * rest * sizeof(Number));
          const Floats turn = load_part(cosines + whole, rest), tilt = load_part(sines + whole, rest);
          store_pairs(padded, turned(load_pairs(padded), turn, tilt));
          memcpy(at + 2 * whole, padded, 2 * rest * sizeof(Number));
        }
      }
    }
  });
}

} // namespace

#define TESSERA_ELEMENTWISE(path, suffix, Number)                                                                    \
  EXPORT int rms_norm_##suffix##_##path(const Number *x, int64_t x_stride, const Number *weight, Number *out,        \
                                        int64_t rows, int64_t width, float eps, int64_t threads) {                   \
    rms_norm(x, x_stride, weight, out, rows, width, eps, static_cast<int>(threads));                                 \
    return 0;                                                                                                        \
  }                                                                                                                  \
  EXPORT int silu_gate_##suffix##_##path(Number *gate, int64_t gate_stride, const Number *up, int64_t up_stride,     \
                                         int64_t rows, int64_t width, int64_t threads) {                             \
    silu_gate(gate, gate_stride, up, up_stride, rows, width, static_cast<int>(threads));                             \
    return 0;                                                                                                        \
  }                                                                                                                  \
  EXPORT int rotate_##suffix##_##path(Number *x, int64_t token_stride, int64_t head_stride, const float *cos,        \
                                      const float *sin, int64_t tokens, int64_t heads, int64_t pairs,                \
                                      int64_t threads) {                                                             \
    rotate(x, token_stride, head_stride, cos, sin, tokens, heads, pairs, static_cast<int>(threads));                 \
    return 0;                                                                                                        \
  }
