// The innermost product of float32 on AVX2: four broadcast numbers times 24 lanes, so that 12 sums stay in registers, 7
// loads serve 12 products, and nothing is added across lanes.
#pragma once

#include "vector.h"

namespace {

constexpr int VECTORS = 3; // with ROWS, as many sums as leave registers for what is multiplied
constexpr int ROWS = 4;
constexpr int64_t WIDE = VECTORS * LANES;

// Sums of `steps` products of four numbers and a row of WIDE: four rows of them, stored or added to what is there. A
// function of its own, because GCC would keep what surrounds it in registers and the sums in memory.
template <bool ADDS>
__attribute__((noinline)) void multiply(const float *broadcast, const float *vectors, int64_t steps, float *out) {
  Floats sums[ROWS][VECTORS] = {};
  for (int64_t step = 0; step < steps; ++step, broadcast += ROWS, vectors += WIDE) {
    Floats row[VECTORS];
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; ++v) {
      row[v] = load(vectors + v * LANES);
      __asm__("" : "+x"(row[v])); // loaded once: GCC would load it again for each product
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const Floats number = all(broadcast[r]);
#pragma GCC unroll 3
      for (int v = 0; v < VECTORS; ++v) sums[r][v] = fused(number, row[v], sums[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; ++v) {
      float *to = out + r * WIDE + v * LANES;
      store(to, ADDS ? load(to) + sums[r][v] : sums[r][v]);
    }
}

} // namespace
