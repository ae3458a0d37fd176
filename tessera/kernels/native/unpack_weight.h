// A packed weight's columns as rows: what the gradient of a product's inputs is multiplied by.
//
// The codes of a column lie 16 rows together, so the matrix is written as (columns, rows): one load gives four columns
// of as many rows as a register holds. In bfloat16 the bits are those of kernels/packed_weight.py's `dequantize`: a
// product of scale and code is exact, and the sum is rounded once. Or they are packed again, in 8 bits with a scale for
// each 32 rows, for the integer kernels.
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

// One register of codes: of column 4 * chunk + byte, with 4 bits 16 * (bit / 4) further.
template <int BITS> inline Floats codes_of(Words words, int byte, int bit) {
  return whole_numbers((words >> static_cast<uint32_t>(8 * byte + bit)) & ((1u << BITS) - 1));
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
          store(out + column * stride + row, codes_of<BITS>(words, byte, bit) * scale + offset);
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

constexpr int PARTS = GROUP / LANES; // registers for the rows of two tiles

// 32 values of one column as 8-bit codes of scale * (code - 128), `TILE_ROWS` words apart; returns the scale, a float16
// that is rounded up, so that no code is beyond 127 from the centre.
inline uint16_t pack_rows(const Floats (&values)[PARTS], uint8_t *codes) {
  Floats most = all(0.0f);
  for (const Floats &part : values) most = larger(most, larger(part, -part));
  const uint16_t half = _cvtss_sh(largest(most) / 127.0f, _MM_FROUND_TO_POS_INF);
  const float scale = _cvtsh_ss(half);
  const Floats inverse = all(scale > 0.0f ? 1.0f / scale : 0.0f);
  alignas(64) uint8_t bytes[GROUP];
  for (int part = 0; part < PARTS; ++part) {
    const Wholes whole = __builtin_convertvector(nearest(values[part] * inverse), Wholes) + 128;
    const Bytes narrow = __builtin_convertvector(whole, Bytes);
    memcpy(bytes + part * LANES, &narrow, LANES);
  }
  for (int word = 0; word < GROUP / 4; ++word) memcpy(codes + word * 4 * TILE_ROWS, bytes + 4 * word, 4);
  return half;
}

// The two tiles' 32 rows of one group's 32 columns: they become a group of 32 columns of two tiles.
template <int BITS>
void turn_group(const Weight &weight, int64_t tile, int64_t group, uint8_t *codes, uint16_t *scales, int64_t groups) {
  const int64_t bytes = TILE_ROWS * GROUP * BITS / 8;
  Floats scale[PARTS], offset[PARTS];
  const uint8_t *from[PARTS];
  for (int part = 0; part < PARTS; ++part) {
    const int64_t at = tile + part * LANES / TILE_ROWS, row = part * LANES % TILE_ROWS;
    row_values(weight, at, group, row, scale[part], offset[part]);
    from[part] = weight.codes + (at * weight.groups() + group) * bytes + 4 * row;
  }
  for (int chunk = 0; chunk < BITS; ++chunk) {
    Words words[PARTS];
    for (int part = 0; part < PARTS; ++part) memcpy(words + part, from[part] + 64 * chunk, sizeof(Words));
    for (int byte = 0; byte < 4; ++byte)
      for (int bit = 0; bit < 8; bit += BITS) {
        const int64_t column = 4 * chunk + byte + 16 * (bit / 4);
        const int64_t cell = column / TILE_ROWS * groups, row = column % TILE_ROWS;
        Floats values[PARTS];
        for (int part = 0; part < PARTS; ++part)
          values[part] = codes_of<BITS>(words[part], byte, bit) * scale[part] + offset[part];
        scales[cell * TILE_ROWS + row] = pack_rows(values, codes + cell * TILE_ROWS * GROUP + 4 * row);
      }
  }
}

// `codes` and `scales` are those of a packed weight of 8 bits: (columns of the groups, rows). The tiles are even in
// number.
void turn_weight(const Weight &weight, int64_t first_group, int64_t groups, uint8_t *codes, uint16_t *scales,
                 int threads) {
  const int64_t pairs = weight.tiles() / 2; // as many groups of columns
  parallel(threads, [&](int index, int count) {
    for (int64_t group = index; group < groups; group += count)
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t cell = (group * GROUP / TILE_ROWS * pairs + pair) * TILE_ROWS;
        const auto turn = weight.bits == 4 ? turn_group<4> : turn_group<8>;
        turn(weight, 2 * pair, first_group + group, codes + cell * GROUP, scales + cell, pairs);
      }
  });
}

} // namespace

#define TESSERA_UNPACK_WEIGHT(path)                                                                                  \
  EXPORT int unpack_weight_##path(const Weight *weight, int64_t first_group, int64_t groups, bfloat16 *out,          \
                                  int64_t stride, int64_t threads) {                                                 \
    unpack_weight(*weight, first_group, groups, out, stride, static_cast<int>(threads));                             \
    return 0;                                                                                                        \
  }                                                                                                                  \
  EXPORT int turn_weight_##path(const Weight *weight, int64_t first_group, int64_t groups, uint8_t *codes,           \
                                uint16_t *scales, int64_t threads) {                                                 \
    turn_weight(*weight, first_group, groups, codes, scales, static_cast<int>(threads));                             \
    return 0;                                                                                                        \
  }
