// A packed weight's columns as rows of bfloat16: what the gradient of a product's inputs is multiplied by.
//
// The codes of a column lie 16 rows together, so the matrix is written as (columns, rows): one load gives four columns
// of as many rows as a register holds, and nothing is shuffled. The bits are those of kernels/packed_weight.py's
// `dequantize`: a product of scale and code is exact, and the sum is rounded once.
#pragma once

#include "export.h"
#include "packed_weight.h"
#include "parallel.h"
#include "vector.h"

namespace {

typedef uint8_t Bytes __attribute__((vector_size(LANES)));
typedef int32_t Wholes __attribute__((vector_size(LANES * 4)));

inline Floats whole_numbers(Words words) { return __builtin_convertvector(reinterpret<Wholes>(words), Floats); }

inline Floats small_numbers(const uint8_t *from) {
  Bytes bytes;
  memcpy(&bytes, from, sizeof(bytes));
  return __builtin_convertvector(bytes, Floats);
}

inline Floats of_halves(const void *from) { return load(static_cast<const float16 *>(from)); }

// Scale and offset of some rows in one group: value = scale * code + offset.
inline void row_values(const Weight &weight, int64_t tile, int64_t group, int64_t row, Floats &scale, Floats &offset) {
  const int64_t cell = (tile * weight.groups() + group) * TILE_ROWS + row;
  const int64_t super = (tile * (weight.groups() / SUPER_GROUPS) + group / SUPER_GROUPS) * TILE_ROWS + row;
  scale = weight.super_scales ? small_numbers(weight.scales + cell) * of_halves(weight.super_scales + super)
                              : of_halves(weight.scales + 2 * cell);
  if (!weight.minimums)
    offset = scale * all(static_cast<float>(-(1 << (weight.bits - 1))));
  else if (weight.super_minimums)
    offset = -small_numbers(weight.minimums + cell) * of_halves(weight.super_minimums + super);
  else
    offset = of_halves(weight.minimums + 2 * cell);
}

template <int BITS>
void unpack_group(const Weight &weight, int64_t tile, int64_t group, bfloat16 *out, int64_t stride) {
  const uint8_t *from = weight.codes + (tile * weight.groups() + group) * TILE_ROWS * GROUP * BITS / 8;
  for (int64_t row = 0; row < TILE_ROWS; row += LANES) {
    Floats scale, offset;
    row_values(weight, tile, group, row, scale, offset);
    for (int chunk = 0; chunk < BITS; ++chunk) {
      Words words;
      memcpy(&words, from + 64 * chunk + 4 * row, sizeof(words));
      for (int byte = 0; byte < 4; ++byte)
        for (int bit = 0; bit < 8; bit += BITS) {
          const int64_t column = 4 * chunk + byte + 16 * (bit / 4);
          const Words codes = (words >> static_cast<uint32_t>(8 * byte + bit)) & ((1u << BITS) - 1);
          store(out + column * stride + row, whole_numbers(codes) * scale + offset);
        }
    }
  }
}

// `out` is (columns of the groups, `stride` rows); the rows are whole tiles.
void unpack_weight(const Weight &weight, int64_t first_group, int64_t groups, bfloat16 *out, int64_t stride,
                   int threads) {
  parallel(threads, [&](int index, int count) {
    for (int64_t group = index; group < groups; group += count)
      for (int64_t tile = 0; tile < weight.tiles(); ++tile) {
        bfloat16 *to = out + group * GROUP * stride + tile * TILE_ROWS;
        if (weight.bits == 4)
          unpack_group<4>(weight, tile, first_group + group, to, stride);
        else
          unpack_group<8>(weight, tile, first_group + group, to, stride);
      }
  });
}

} // namespace

#define TESSERA_UNPACK_WEIGHT(path)                                                                                  \
  EXPORT int unpack_weight_##path(const Weight *weight, int64_t first_group, int64_t groups, bfloat16 *out,          \
                                  int64_t stride, int64_t threads) {                                                 \
    unpack_weight(*weight, first_group, groups, out, stride, static_cast<int>(threads));                             \
    return 0;                                                                                                        \
  }
