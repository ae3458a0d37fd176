// What Python, and a step, pass to the products of adapters, field by field as in kernels/low_rank.py.
#pragma once

#include <cstdint>

namespace {

struct bfloat16;

struct LowRankPart {
  const bfloat16 *a, *b; // (rank, columns), (rank, outputs)
  bfloat16 *low;         // (tokens, rank), what A gives
  int64_t rank, first, tokens;
  double scale;
};

struct LowRankCall {
  bfloat16 *out;
  const bfloat16 *inputs;
  int64_t out_stride, input_stride, outputs, columns;
  const LowRankPart *parts;
  int64_t count, threads;
};

} // namespace
