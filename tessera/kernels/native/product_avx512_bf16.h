// c (+)= a times b in bfloat16 by AVX512-BF16's dot products, summed in float32.
//
// a is row-major. b is in pairs: row p holds, for each column, the values of the inner indexes 2p and 2p + 1 side
// by side, which is what both this instruction and AMX's tiles multiply.
#pragma once

#include <immintrin.h>

#include "vector.h"

namespace {

struct ProductAvx512 {
  struct Session {}; // nothing to set up in a thread

  static constexpr int64_t ROWS = 6; // 6 x 4 sums of 16 leave 8 of the 32 registers for a and b

  // Strides count numbers. `rows` is a multiple of ROWS, `columns` of 32, `pairs` of 16.
  static void multiply(const bfloat16 *a, int64_t a_stride, const bfloat16 *b, int64_t b_stride, float *c,
                       int64_t c_stride, int64_t rows, int64_t columns, int64_t pairs, bool add) {
    int64_t column = 0;
    for (; column + 64 <= columns; column += 64)
      for (int64_t row = 0; row < rows; row += ROWS)
        block<4>(a + row * a_stride, a_stride, b + 2 * column, b_stride, c + row * c_stride + column, c_stride, pairs,
                 add);
    if (column < columns)
      for (int64_t row = 0; row < rows; row += ROWS)
        block<2>(a + row * a_stride, a_stride, b + 2 * column, b_stride, c + row * c_stride + column, c_stride, pairs,
                 add);
  }

private:
  template <int VECTORS>
  static void block(const bfloat16 *a, int64_t a_stride, const bfloat16 *b, int64_t b_stride, float *c,
                    int64_t c_stride, int64_t pairs, bool add) {
    __m512 sums[ROWS][VECTORS];
    for (int row = 0; row < ROWS; ++row)
      for (int v = 0; v < VECTORS; ++v)
        sums[row][v] = add ? _mm512_loadu_ps(c + row * c_stride + 16 * v) : _mm512_setzero_ps();
    for (int64_t pair = 0; pair < pairs; ++pair) {
      __m512i of_b[VECTORS];
      for (int v = 0; v < VECTORS; ++v) of_b[v] = _mm512_loadu_si512(b + pair * b_stride + 32 * v);
      for (int row = 0; row < ROWS; ++row) {
        int both;
        memcpy(&both, a + row * a_stride + 2 * pair, sizeof(both));
        const __m512i of_a = _mm512_set1_epi32(both);
        for (int v = 0; v < VECTORS; ++v)
          sums[row][v] = _mm512_dpbf16_ps(sums[row][v], reinterpret<__m512bh>(of_a), reinterpret<__m512bh>(of_b[v]));
      }
    }
    for (int row = 0; row < ROWS; ++row)
      for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(c + row * c_stride + 16 * v, sums[row][v]);
  }
};

} // namespace
