// What Python passes to a product with a packed weight, field by field as in kernels/packed_linear.py.
#pragma once

#include "packed_weight.h"

namespace {

enum DType { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

inline int64_t element_bytes(int64_t dtype) { return dtype == FLOAT32 ? 4 : 2; }

struct Rows { // the inputs or the outputs
  void *start;
  int64_t dtype, tokens, stride; // the stride in elements
};

struct PackedCall {
  Rows out, inputs;
  Weight weight;
  int64_t threads;
};

} // namespace
