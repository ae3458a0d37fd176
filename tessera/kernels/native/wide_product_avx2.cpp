// Products of matrices of 16 bits in float32, where nothing wider than AVX2 is; the twin is PyTorch's own in float32.
//
// Lanes are columns of the result: a panel of 24 meets four rows, whose numbers are broadcast. Both sides are unpacked to
// float32 as they are needed, 256 steps of the sum at a time: a panel then stays in the core's first cache while 256
// rows pass, and these stay in the second while four panels do (after GotoBLAS, ACM TOMS 34:3, with the sides
// exchanged). Sums begin anew every 256 steps whatever the rows, so a row's result depends neither on the rows beside it
// nor on the threads.
#include <algorithm>
#include <atomic>

#include "export.h"
#include "parallel.h"
#include "product_avx2.h"

namespace {

constexpr int64_t STEPS = 256;        // a multiple of LANES
constexpr int64_t PANELS = 4;         // of WIDE columns at a time
constexpr int64_t CACHED_GROUPS = 64; // of four rows, whose block the second cache holds

// What numbers are, as kernels/wide_linear.py numbers it.
enum Stored { BFLOAT16, FLOAT16 };

struct Matrix {
  void *start;
  int64_t row_stride, column_stride; // one of them is 1
};

// What Python passes, field by field as in kernels/wide_linear.py.
struct ProductCall {
  Matrix left, right, out; // (rows, depth), (columns, depth) and (rows, columns)
  int64_t rows, columns, depth;
  int64_t most;  // of the rows at a time, a multiple of four
  float *packed; // `most` rows of the left matrix: block after block, four rows side by side; then each thread's sums
  int64_t threads, stored;

  int64_t blocks() const { return (depth + STEPS - 1) / STEPS; }
  int64_t steps(int64_t block) const { return std::min(STEPS, depth - block * STEPS); }
  float *left_of(int64_t block, int64_t group) const { return packed + (block * (most / ROWS) + group) * STEPS * ROWS; }
  float *sums_of(int64_t thread) const { return left_of(blocks(), 0) + thread * most * PANELS * WIDE; }
};

template <class Number> Floats load_some(const Number *from, int64_t count) {
  return count >= LANES ? load(from) : count > 0 ? load_part(from, count) : all(0);
}

template <class Number> void store_some(Number *to, Floats value, int64_t count) {
  if (count >= LANES)
    store(to, value);
  else
    store_part(to, value, count);
}

// Four rows of eight numbers, to eight fours.
inline void transpose(const Floats (&rows)[4], __m128 (&fours)[LANES]) {
  const __m256 low01 = _mm256_unpacklo_ps(rows[0], rows[1]), high01 = _mm256_unpackhi_ps(rows[0], rows[1]);
  const __m256 low23 = _mm256_unpacklo_ps(rows[2], rows[3]), high23 = _mm256_unpackhi_ps(rows[2], rows[3]);
  const __m256 both[4] = {_mm256_shuffle_ps(low01, low23, 0x44), _mm256_shuffle_ps(low01, low23, 0xee),
                          _mm256_shuffle_ps(high01, high23, 0x44), _mm256_shuffle_ps(high01, high23, 0xee)};
  for (int place = 0; place < 4; ++place) {
    fours[place] = _mm256_castps256_ps128(both[place]);
    fours[place + 4] = _mm256_extractf128_ps(both[place], 1);
  }
}

// Rows and steps of a matrix from `row` and `step` on: each step's SIDE rows side by side, zero beyond the last row. Of
// STEPS steps there is room for, the last eight may end in some that nothing reads.
template <int64_t SIDE, class Number>
void pack(const Matrix &matrix, int64_t row, int64_t rows, int64_t step, int64_t steps, float *to) {
  const Number *from =
      static_cast<const Number *>(matrix.start) + row * matrix.row_stride + step * matrix.column_stride;
  if (matrix.column_stride != 1) { // rows are side by side already
    for (int64_t s = 0; s < steps; ++s)
      for (int64_t r = 0; r < SIDE; r += LANES)
        store_some(to + s * SIDE + r, load_some(from + s * matrix.column_stride + r, rows - r), SIDE - r);
    return;
  }
  for (int64_t r = 0; r < SIDE; r += ROWS)
    for (int64_t s = 0; s < steps; s += LANES) {
      Floats numbers[ROWS];
      for (int64_t i = 0; i < ROWS; ++i)
        numbers[i] = load_some(from + (r + i) * matrix.row_stride + s, r + i < rows ? steps - s : 0);
      __m128 fours[LANES];
      transpose(numbers, fours);
      for (int64_t i = 0; i < LANES; ++i) _mm_storeu_ps(to + (s + i) * SIDE + r, fours[i]);
    }
}

// The columns of `count` panels from `first` on, of `rows` rows from `row` on.
template <class Number>
void multiply_panels(const ProductCall &call, int64_t row, int64_t rows, int64_t first, int64_t count, float *sums) {
  alignas(64) float right[PANELS][STEPS * WIDE];
  const int64_t groups = (rows + ROWS - 1) / ROWS;
  for (int64_t block = 0; block < call.blocks(); ++block) {
    const int64_t steps = call.steps(block);
    for (int64_t p = 0; p < count; ++p) {
      const int64_t column = (first + p) * WIDE;
      pack<WIDE, Number>(call.right, column, call.columns - column, block * STEPS, steps, right[p]);
    }
    const auto product = block ? multiply<true> : multiply<false>;
    for (int64_t group = 0; group < groups; group += CACHED_GROUPS)
      for (int64_t p = 0; p < count; ++p)
        for (int64_t g = group; g < std::min(group + CACHED_GROUPS, groups); ++g)
          product(call.left_of(block, g), right[p], steps, sums + (p * groups + g) * ROWS * WIDE);
  }
  for (int64_t r = 0; r < rows; ++r) // whole cache lines of a row
    for (int64_t p = 0; p < count; ++p) {
      const int64_t column = (first + p) * WIDE;
      Number *to = static_cast<Number *>(call.out.start) + (row + r) * call.out.row_stride + column;
      for (int64_t c = 0; c < std::min(WIDE, call.columns - column); c += LANES)
        store_some(to + c, load(sums + (p * groups * ROWS + r) * WIDE + c), call.columns - column - c);
    }
}

template <class Number> void multiply_rows(const ProductCall &call, int64_t row, int64_t rows) {
  const int64_t groups = (rows + ROWS - 1) / ROWS;
  std::atomic<int64_t> next_group{0};
  Stretches panels((call.columns + WIDE - 1) / WIDE, PANELS, call.threads);
  parallel(static_cast<int>(call.threads), [&](int index, int count) {
    for (int64_t item; (item = next_group++) < groups * call.blocks();) {
      const int64_t block = item / groups, group = item % groups;
      pack<ROWS, Number>(call.left, row + group * ROWS, rows - group * ROWS, block * STEPS, call.steps(block),
                         call.left_of(block, group));
    }
    barrier(count);
    for (int64_t begin, end; panels.take(PANELS, begin, end);)
      multiply_panels<Number>(call, row, rows, begin, end - begin, call.sums_of(index));
  });
}

template <class Number> void multiply_all(const ProductCall &call) {
  for (int64_t row = 0; row < call.rows; row += call.most)
    multiply_rows<Number>(call, row, std::min(call.most, call.rows - row));
}

} // namespace

EXPORT int wide_product_avx2(const ProductCall *call) {
  if (call->stored == BFLOAT16) multiply_all<bfloat16>(*call);
  if (call->stored == FLOAT16) multiply_all<float16>(*call);
  return 0;
}
