// Products of many tokens with a packed weight: panels of it in bfloat16, each met by a block of tokens.
//
// A thread takes 256 outputs and up to 512 tokens at a time, and goes along the inputs in stretches of 512 columns:
// the stretch of the weight becomes bfloat16 in pairs (what `Product` multiplies) in the core's second-level cache,
// the same bits as kernels/packed_weight.py's `dequantize` gives, and all tokens pass by it. So the codes are read
// from memory once for 512 tokens, and unpacking them costs 1/512 of a step per product. Inputs are first copied
// into stretches whose rows do not fall into the same sets of the first-level cache, as rows of 4096 numbers do.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

#include "export.h"
#include "packed_weight.h"
#include "parallel.h"
#include "vector.h"

namespace {

constexpr int64_t STRETCH = 512;         // columns
constexpr int64_t STRETCH_STRIDE = 544;  // 17 cache lines
constexpr int64_t BLOCK_TOKENS = 512;    // at most
constexpr int64_t PADDED_TOKENS = 516;   // the next multiple of the products' 6 rows, and of their 32
constexpr int64_t PANEL_ROWS = 256;      // of the weight: the columns of a product
constexpr int64_t BLOCK_COLUMNS = 64;    // unpacked weight: blocks of 64, each a matrix of (pairs, columns)

struct Linear {
  Weight weight;
  const bfloat16 *inputs;
  bfloat16 *out;
  int64_t tokens, stride; // of inputs; outputs are contiguous
  bfloat16 *stretches;    // [stretch][token, padded][STRETCH_STRIDE]
  int64_t padded_tokens;

  int64_t stretch_count() const { return (weight.columns + STRETCH - 1) / STRETCH; }
  bfloat16 *stretch(int64_t index, int64_t token) const {
    return stretches + (index * padded_tokens + token) * STRETCH_STRIDE;
  }
};

// What a thread works in.
struct Workspace {
  alignas(64) bfloat16 panel[STRETCH * PANEL_ROWS];
  alignas(64) float sums[PADDED_TOKENS * PANEL_ROWS];
};

// Scale and offset of a tile's 16 rows in one group: value = scale * code + offset.
inline void group_values(const Weight &weight, int64_t tile, int64_t group, __m512 &scale, __m512 &offset) {
  const int64_t cell = (tile * weight.groups() + group) * TILE_ROWS;
  const int64_t super = (tile * (weight.groups() / SUPER_GROUPS) + group / SUPER_GROUPS) * TILE_ROWS;
  if (weight.super_scales)
    scale = _mm512_mul_ps(multipliers(weight.scales + cell, weight.bits == 3), halves(weight.super_scales + super));
  else
    scale = halves(weight.scales + 2 * cell);
  if (!weight.minimums)
    offset = _mm512_mul_ps(scale, _mm512_set1_ps(static_cast<float>(-centre_of(weight.bits))));
  else if (weight.super_minimums)
    offset = _mm512_mul_ps(multipliers(weight.minimums + cell, false),
                           _mm512_sub_ps(_mm512_setzero_ps(), halves(weight.super_minimums + super)));
  else
    offset = halves(weight.minimums + 2 * cell);
}

// Bits `shift` to `shift` + BITS of 16 words, as values. A scale has 17 bits at most and a code 8 (18 and 5 with 3
// bits), so their product is exact, and the one rounding is that of the sum, as in the twin.
template <int BITS> __m512 values_of(__m512i words, int shift, __m512 scale, __m512 offset) {
  const __m512i codes = _mm512_and_si512(_mm512_srli_epi32(words, shift), _mm512_set1_epi32((1 << BITS) - 1));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), scale, offset);
}

// The lowest 3 bits of 16 words, as values; the fourth may be any.
inline __m512 level_values(__m512i words, __m512 scale, __m512 offset) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i *>(LEVELS));
  const __m512 levels = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(table));
  return _mm512_fmadd_ps(_mm512_permutexvar_ps(words, levels), scale, offset); // which reads 4 bits of an index
}

// Two columns of 16 rows, side by side.
inline void store_pair(bfloat16 *to, __m512 first, __m512 second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = reinterpret<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
}

// One tile's group to 16 rows of pairs.
template <int BITS> void unpack_group(const Weight &weight, int64_t tile, int64_t group, bfloat16 *to) {
  __m512 scale, offset;
  group_values(weight, tile, group, scale, offset);
  const uint8_t *from = weight.codes + (tile * weight.groups() + group) * TILE_ROWS * GROUP * BITS / 8;
  constexpr int64_t ROW = 2 * BLOCK_COLUMNS;
  for (int chunk = 0; chunk < BITS; ++chunk) {
    const __m512i words = _mm512_loadu_si512(from + 64 * chunk);
    bfloat16 *at = to + 2 * chunk * ROW;
    store_pair(at, values_of<BITS>(words, 0, scale, offset), values_of<BITS>(words, 8, scale, offset));
    store_pair(at + ROW, values_of<BITS>(words, 16, scale, offset), values_of<BITS>(words, 24, scale, offset));
    if (BITS == 8) continue;
    at += 8 * ROW; // the high halves are 16 columns on
    store_pair(at, values_of<BITS>(words, 4, scale, offset), values_of<BITS>(words, 12, scale, offset));
    store_pair(at + ROW, values_of<BITS>(words, 20, scale, offset), values_of<BITS>(words, 28, scale, offset));
  }
}

// One tile's group of 3-bit codes to 16 rows of pairs, four columns at a time.
inline void unpack_levels(const Weight &weight, int64_t tile, int64_t group, bfloat16 *to) {
  __m512 scale, offset;
  group_values(weight, tile, group, scale, offset);
  const uint8_t *from = weight.codes + (tile * weight.groups() + group) * TILE_ROWS * GROUP * 3 / 8;
  __m512i chunks[3];
  for (int chunk = 0; chunk < 3; ++chunk) chunks[chunk] = _mm512_loadu_si512(from + 64 * chunk);
  for (int four = 0; four < 8; ++four, to += 4 * BLOCK_COLUMNS) {
    const __m512i pairs = four < 6 ? chunks[four / 2 % 3] : last_pairs(chunks);
    __m512 values[4];
    for (int byte = 0; byte < 4; ++byte)
      values[byte] = level_values(_mm512_srli_epi32(pairs, 8 * byte + four % 2 * 4), scale, offset);
    store_pair(to, values[0], values[1]);
    store_pair(to + 2 * BLOCK_COLUMNS, values[2], values[3]);
  }
}

// Tiles `first` to `last` of one stretch of columns, in blocks of 64 outputs; whole pairs of tiles, the second zero
// where there is none.
inline void unpack_panel(const Weight &weight, int64_t first, int64_t last, int64_t column, int64_t columns,
                         bfloat16 *panel) {
  for (int64_t tile = first; tile < last + (last - first) % 2; ++tile) {
    const int64_t place = tile - first;
    bfloat16 *to = panel + place / 4 * (columns * BLOCK_COLUMNS) + place % 4 * (2 * TILE_ROWS);
    for (int64_t group = column / GROUP; group < (column + columns) / GROUP; ++group, to += GROUP * BLOCK_COLUMNS) {
      if (tile == last)
        for (int64_t pair = 0; pair < GROUP / 2; ++pair) memset(to + pair * 2 * BLOCK_COLUMNS, 0, 64);
      else if (weight.bits == 3)
        unpack_levels(weight, tile, group, to);
      else if (weight.bits == 4)
        unpack_group<4>(weight, tile, group, to);
      else
        unpack_group<8>(weight, tile, group, to);
    }
  }
}

// One token's inputs into all stretches; a token beyond the last is zero.
inline void copy_token(const Linear &work, int64_t token) {
  for (int64_t index = 0; index < work.stretch_count(); ++index) {
    const int64_t column = index * STRETCH;
    const size_t bytes = static_cast<size_t>(std::min(STRETCH, work.weight.columns - column)) * sizeof(bfloat16);
    bfloat16 *to = work.stretch(index, token);
    if (token < work.tokens)
      memcpy(to, work.inputs + token * work.stride + column, bytes);
    else
      memset(to, 0, bytes);
  }
}

// Outputs of tiles `first` to `last` for tokens `start` to `stop`.
template <class Product>
void multiply_panel(const Linear &work, int64_t first, int64_t last, int64_t start, int64_t stop, Workspace &space) {
  const int64_t padded = (stop - start + Product::ROWS - 1) / Product::ROWS * Product::ROWS;
  const int64_t width = (last - first + 1) / 2 * 2 * TILE_ROWS;
  for (int64_t index = 0; index < work.stretch_count(); ++index) {
    const int64_t column = index * STRETCH, columns = std::min(STRETCH, work.weight.columns - column);
    unpack_panel(work.weight, first, last, column, columns, space.panel);
    for (int64_t block = 0; block < width; block += BLOCK_COLUMNS)
      Product::multiply(work.stretch(index, start), STRETCH_STRIDE, space.panel + block * columns, 2 * BLOCK_COLUMNS,
                        space.sums + block, PANEL_ROWS, padded, std::min(BLOCK_COLUMNS, width - block), columns / 2,
                        index > 0);
  }
  const int64_t row = first * TILE_ROWS, rows = std::min(last * TILE_ROWS, work.weight.rows) - row;
  for (int64_t token = start; token < stop; ++token) {
    const float *sums = space.sums + (token - start) * PANEL_ROWS;
    bfloat16 *to = work.out + token * work.weight.rows + row;
    int64_t column = 0;
    for (; column + LANES <= rows; column += LANES) store(to + column, load(sums + column));
    if (column < rows) store_part(to + column, load(sums + column), rows - column);
  }
}

// 0, or 1 when there is no memory to work in. One thread that has some is enough.
template <class Product> int prefill_linear(Linear work, int threads) {
  const int64_t tiles = work.weight.tiles();
  const int64_t blocks = (work.tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
  const int64_t block = (work.tokens + blocks - 1) / blocks;
  // Smaller panels where there would be too few for all threads to end at about the same time.
  int64_t panel = PANEL_ROWS / TILE_ROWS;
  while (panel > BLOCK_COLUMNS / TILE_ROWS && (tiles + panel - 1) / panel * blocks < 4 * threads) panel /= 2;
  const int64_t panels = (tiles + panel - 1) / panel;
  const int64_t numbers = work.stretch_count() * work.padded_tokens * STRETCH_STRIDE;
  const std::unique_ptr<bfloat16[]> stretches(new (std::nothrow) bfloat16[static_cast<size_t>(numbers)]);
  if (!stretches) return 1;
  work.stretches = stretches.get();
  std::atomic<int64_t> next_token{0}, next{0};
  parallel(threads, [&](int, int count) {
    for (int64_t token; (token = next_token++) < work.padded_tokens;) copy_token(work, token);
    barrier(count);
    const std::unique_ptr<Workspace> space(new (std::nothrow) Workspace);
    if (!space) return;
    const typename Product::Session session;
    for (int64_t job; (job = next++) < panels * blocks;) {
      const int64_t first = job % panels * panel, start = job / panels * block;
      multiply_panel<Product>(work, first, std::min(first + panel, tiles), start,
                              std::min(start + block, work.tokens), *space);
    }
  });
  return next < panels * blocks;
}

} // namespace

#define TESSERA_PREFILL_LINEAR(path, Product)                                                                          \
  EXPORT int prefill_linear_##path(bfloat16 *out, const bfloat16 *inputs, int64_t tokens, int64_t stride,              \
                                 const uint8_t *codes, const uint8_t *scales, const uint8_t *minimums,               \
                                 const uint16_t *super_scales, const uint16_t *super_minimums, int64_t bits,         \
                                 int64_t rows, int64_t columns, int64_t threads) {                                   \
    const Weight weight = {codes, scales, minimums, super_scales, super_minimums, bits, rows, columns};              \
    return prefill_linear<Product>({weight, inputs, out, tokens, stride, nullptr, tokens + Product::ROWS - 1},         \
                                 static_cast<int>(threads));                                                         \
  }
