// What Python passes to a product with a bfloat16 weight, field by field as in kernels/skinny_linear.py.
#pragma once

#include <cstdint>

namespace {

struct bfloat16;

struct SkinnyCall {
  bfloat16 *out;
  const bfloat16 *inputs, *weight;
  int64_t tokens, input_stride, rows, columns, threads;
};

} // namespace
