// Adds adapters' products to a linear's, in bfloat16 for few tokens: out += scale * inputs A' B, each adapter for its
// own rows. Reading A and B is what takes the time, so one call does it for all adapters of a linear.
//
// B lies transposed, (rank, outputs), so that a register holds neighbouring outputs and nothing is summed across it.
// Sums are in float32, in an order that does not depend on the other tokens; what A gives is rounded to bfloat16.
#pragma once

#include "low_rank_call.h"
#include "skinny_linear.h"

namespace {

constexpr int64_t BESIDE = 4; // registers of outputs at a time

inline float number(bfloat16 from) { return reinterpret<float>(static_cast<uint32_t>(from.bits) << 16); }

// The outputs of TOKENS tokens from `at`, as many as BESIDE registers hold or as there are.
template <int TOKENS>
void add_outputs(const LowRankCall &call, const LowRankPart &part, int64_t token, int64_t at) {
  const int64_t there = std::min(call.outputs - at, BESIDE * LANES);
  Floats sums[TOKENS][BESIDE] = {};
  for (int64_t r = 0; r < part.rank; ++r) {
    const bfloat16 *row = part.b + r * call.outputs + at;
    Floats of_b[BESIDE];
    for (int64_t i = 0; i < BESIDE; ++i) {
      const int64_t left = there - i * LANES;
      of_b[i] = left >= LANES ? load(row + i * LANES) : left > 0 ? load_part(row + i * LANES, left) : all(0.0f);
    }
    for (int t = 0; t < TOKENS; ++t) {
      const Floats low = all(number(part.low[(token + t) * part.rank + r]));
      for (int64_t i = 0; i < BESIDE; ++i) sums[t][i] = fused(low, of_b[i], sums[t][i]);
    }
  }
  const Floats scale = all(static_cast<float>(part.scale));
  for (int t = 0; t < TOKENS; ++t) {
    bfloat16 *out = call.out + (part.first + token + t) * call.out_stride + at;
    for (int64_t i = 0; i * LANES < there; ++i) {
      const int64_t left = there - i * LANES;
      if (left >= LANES)
        store(out + i * LANES, fused(scale, sums[t][i], load(out + i * LANES)));
      else
        store_part(out + i * LANES, fused(scale, sums[t][i], load_part(out + i * LANES, left)), left);
    }
  }
}

template <class Product> int low_rank(const LowRankCall &call) {
  const int threads = static_cast<int>(call.threads);
  parallel(threads, [&](int index, int count) {
    int64_t job = 0;
    for (const LowRankPart *part = call.parts; part < call.parts + call.count; ++part) {
      const SkinnyCall first = {part->low, call.inputs + part->first * call.input_stride, part->a, part->tokens,
                                call.input_stride, part->rank, call.columns, 1};
      for (int64_t tile = 0; tile < part->rank; tile += ROWS_AT_ONCE, ++job)
        if (job % count == index)
          tile_product<Product>(first, tile, tile + 2 * ROWS_AT_ONCE <= part->rank ? ROWS_AT_ONCE * call.columns : 0);
    }
  });
  parallel(threads, [&](int index, int count) {
    using Add = decltype(&add_outputs<1>);
    static const Add adds[] = {add_outputs<1>, add_outputs<2>, add_outputs<3>, add_outputs<4>};
    constexpr int64_t step = BESIDE * LANES;
    const int64_t blocks = (call.outputs + step - 1) / step;
    for (const LowRankPart *part = call.parts; part < call.parts + call.count; ++part)
      for (int64_t block = blocks * index / count; block < blocks * (index + 1) / count; ++block)
        for (int64_t token = 0; token < part->tokens; token += Product::TOKENS)
          adds[std::min<int64_t>(Product::TOKENS, part->tokens - token) - 1](call, *part, token, block * step);
  });
  return 0;
}

} // namespace
