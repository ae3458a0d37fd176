// out = inputs times the weight's transpose in bfloat16, for few tokens: reading the weight is what takes the time.
//
// Four rows of the weight at a time are read once from memory, while the next four are fetched, and meet the tokens
// some at a time. Each sum has an order that depends on the columns alone, so a token's result has the same bits
// whatever is computed beside it. Sums are in float32; the twin is PyTorch's own product.
#pragma once

#include <algorithm>

#include "export.h"
#include "parallel.h"
#include "skinny_call.h"
#include "vector.h"

namespace {

constexpr int64_t MOST_TOKENS = 16;
constexpr int ROWS_AT_ONCE = 4; // of the weight
constexpr int64_t BLOCK_COLUMNS = 2048; // of a tile and of some tokens: 32 KiB, what a first-level cache holds
constexpr int64_t JOB_BYTES = 1 << 20; // of the weight, that one thread takes at a time
constexpr int64_t LINE = 64 / sizeof(bfloat16);

// Rows of the next tile that are fetched meanwhile, so far ahead.
struct Fetch {
  int64_t ahead, begin, end;
};

// Adds the products of some columns to TOKENS tokens' sums with a tile's rows. Product has COLUMNS, how many it takes
// at a time, TOKENS, how many tokens' sums its registers hold, and add(sum, a, b).
template <class Product, int TOKENS>
void add_products(const bfloat16 *const (&rows)[ROWS_AT_ONCE], const bfloat16 *inputs, int64_t stride, int64_t begin,
                  int64_t end, Fetch fetch, Floats (*out)[ROWS_AT_ONCE]) {
  Floats sums[TOKENS][ROWS_AT_ONCE];
  for (int token = 0; token < TOKENS; ++token)
    for (int row = 0; row < ROWS_AT_ONCE; ++row) sums[token][row] = out[token][row];
  for (int64_t column = begin; column < end; column += Product::COLUMNS) {
    if (column % LINE == 0)
      for (int64_t row = fetch.begin; row < fetch.end; ++row)
        _mm_prefetch(rows[row] + fetch.ahead + column, _MM_HINT_T1);
    typename Product::Side of_weight[ROWS_AT_ONCE];
    for (int row = 0; row < ROWS_AT_ONCE; ++row) of_weight[row] = Product::side(rows[row] + column);
    for (int token = 0; token < TOKENS; ++token) {
      const typename Product::Side of_input = Product::side(inputs + token * stride + column);
      for (int row = 0; row < ROWS_AT_ONCE; ++row) Product::add(sums[token][row], of_weight[row], of_input);
    }
  }
  for (int token = 0; token < TOKENS; ++token)
    for (int row = 0; row < ROWS_AT_ONCE; ++row) out[token][row] = sums[token][row];
}

// The columns after the last whole step, of one token.
template <class Product>
void add_rest(const bfloat16 *const (&rows)[ROWS_AT_ONCE], const bfloat16 *inputs, int64_t begin, int64_t end,
              Floats (&sums)[ROWS_AT_ONCE]) {
  const size_t bytes = static_cast<size_t>(end - begin) * sizeof(bfloat16);
  bfloat16 of_weight[Product::COLUMNS] = {}, of_input[Product::COLUMNS] = {};
  memcpy(of_input, inputs + begin, bytes);
  for (int row = 0; row < ROWS_AT_ONCE; ++row) {
    memcpy(of_weight, rows[row] + begin, bytes);
    Product::add(sums[row], Product::side(of_weight), Product::side(of_input));
  }
}

inline int64_t tiles_of(const SkinnyCall &call) { return (call.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE; }

// All tokens with rows `tile` to `tile + ROWS_AT_ONCE`, as far as there are; `ahead` is what to fetch meanwhile.
template <class Product> void tile_product(const SkinnyCall &call, int64_t tile, int64_t ahead) {
  using Add = decltype(&add_products<Product, 1>);
  static const Add adds[] = {add_products<Product, 1>, add_products<Product, 2>, add_products<Product, 3>,
                             add_products<Product, 4>};
  const bfloat16 *rows[ROWS_AT_ONCE];
  for (int row = 0; row < ROWS_AT_ONCE; ++row)
    rows[row] = call.weight + std::min<int64_t>(tile + row, call.rows - 1) * call.columns;
  Floats sums[MOST_TOKENS][ROWS_AT_ONCE] = {};
  const int64_t whole = call.columns / Product::COLUMNS * Product::COLUMNS;
  // Each group of tokens fetches its share, so that memory and arithmetic are busy together.
  const int64_t groups = (call.tokens + Product::TOKENS - 1) / Product::TOKENS, fetched = ahead ? ROWS_AT_ONCE : 0;
  for (int64_t begin = 0; begin < whole; begin += BLOCK_COLUMNS)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t token = group * Product::TOKENS, end = std::min(begin + BLOCK_COLUMNS, whole);
      const Fetch fetch = {ahead, fetched * group / groups, fetched * (group + 1) / groups};
      adds[std::min<int64_t>(Product::TOKENS, call.tokens - token) - 1](
          rows, call.inputs + token * call.input_stride, call.input_stride, begin, end, fetch, sums + token);
    }
  const int64_t there = std::min<int64_t>(ROWS_AT_ONCE, call.rows - tile);
  for (int64_t token = 0; token < call.tokens; ++token) {
    if (whole < call.columns)
      add_rest<Product>(rows, call.inputs + token * call.input_stride, whole, call.columns, sums[token]);
    float found[ROWS_AT_ONCE];
    _mm_storeu_ps(found, ::sums(sums[token]));
    store_part(call.out + token * call.rows + tile, load_part(found, ROWS_AT_ONCE), there);
  }
}

// `count` products of the same inputs in one pass of the threads.
template <class Product> int skinny_linear(const SkinnyCall *calls, int64_t count) {
  const int64_t tile_numbers = ROWS_AT_ONCE * calls->columns;
  const int64_t most = JOB_BYTES / (tile_numbers * static_cast<int64_t>(sizeof(bfloat16)));
  int64_t tiles = 0;
  for (int64_t at = 0; at < count; ++at) tiles += tiles_of(calls[at]);
  Stretches stretches(tiles, most, calls->threads);
  parallel(static_cast<int>(calls->threads), [&](int, int) {
    for (int64_t begin, end; stretches.take(tiles, begin, end);)
      for (const SkinnyCall *call = calls; end > 0; ++call) { // the stretch may reach over several weights
        const int64_t there = tiles_of(*call), stop = std::min(end, there);
        for (int64_t tile = begin; tile < stop; ++tile)
          tile_product<Product>(*call, tile * ROWS_AT_ONCE, tile + 1 < stop ? tile_numbers : 0);
        begin = std::max<int64_t>(begin - there, 0), end -= there;
      }
  });
  return 0;
}

} // namespace
