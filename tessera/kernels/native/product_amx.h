// c (+)= a times b in bfloat16 by AMX's tiles: the same operands as product_avx512_bf16.h.
//
// A tile holds 16 rows of 64 bytes. The tile operations are one thin layer, in assembly: a register's number is
// part of an instruction, and GCC 12 may drop the stores of a configuration that its own intrinsic loads. With
// TESSERA_EMULATE_AMX they are plain C++, so that tests run all else on processors without AMX.
#pragma once

#include "vector.h"

namespace {

constexpr int TILE_HEIGHT = 16, TILE_BYTES = 64, TILES = 8;

#ifdef TESSERA_EMULATE_AMX

thread_local bool tiles_configured = false;
thread_local uint8_t tiles[TILES][TILE_HEIGHT][TILE_BYTES];

// A thread's right to tiles, from its configuration to its release.
struct TileSession {
  TileSession() { tiles_configured = true; }
  ~TileSession() { tiles_configured = false; }
};

template <int TILE> void tile_zero() {
  if (!tiles_configured) __builtin_trap();
  memset(tiles[TILE], 0, sizeof(tiles[TILE]));
}

template <int TILE> void tile_load(const void *from, int64_t stride_bytes) {
  if (!tiles_configured) __builtin_trap();
  for (int row = 0; row < TILE_HEIGHT; ++row)
    memcpy(tiles[TILE][row], static_cast<const uint8_t *>(from) + row * stride_bytes, TILE_BYTES);
}

template <int TILE> void tile_store(void *to, int64_t stride_bytes) {
  if (!tiles_configured) __builtin_trap();
  for (int row = 0; row < TILE_HEIGHT; ++row)
    memcpy(static_cast<uint8_t *>(to) + row * stride_bytes, tiles[TILE][row], TILE_BYTES);
}

// c[m][n] += a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1]
template <int C, int A, int B> void tile_multiply() {
  float c[16][16];
  uint32_t a[16][16], b[16][16];
  memcpy(c, tiles[C], sizeof(c));
  memcpy(a, tiles[A], sizeof(a));
  memcpy(b, tiles[B], sizeof(b));
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n) {
        c[m][n] += reinterpret<float>(a[m][k] << 16) * reinterpret<float>(b[k][n] << 16);
        c[m][n] += reinterpret<float>(a[m][k] & 0xffff0000u) * reinterpret<float>(b[k][n] & 0xffff0000u);
      }
  memcpy(tiles[C], c, sizeof(c));
}

#else

struct TileSession {
  TileSession() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    for (int tile = 0; tile < TILES; ++tile) {
      shapes.row_bytes[tile] = TILE_BYTES;
      shapes.rows[tile] = TILE_HEIGHT;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
  }
  ~TileSession() { __asm__ volatile("tilerelease" : : : "memory"); }
};

template <int TILE> void tile_zero() { __asm__ volatile("tilezero %%tmm%c0" : : "i"(TILE)); }

template <int TILE> void tile_load(const void *from, int64_t stride_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride_bytes), "i"(TILE) : "memory");
}

template <int TILE> void tile_store(void *to, int64_t stride_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride_bytes), "i"(TILE) : "memory");
}

template <int C, int A, int B> void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#endif

struct ProductAmx {
  using Session = TileSession;

  static constexpr int64_t ROWS = 32;

  // Strides count numbers. `rows` is a multiple of ROWS, `columns` of 32, `pairs` of 16.
  static void multiply(const bfloat16 *a, int64_t a_stride, const bfloat16 *b, int64_t b_stride, float *c,
                       int64_t c_stride, int64_t rows, int64_t columns, int64_t pairs, bool add) {
    for (int64_t column = 0; column < columns; column += 32)
      for (int64_t row = 0; row < rows; row += ROWS)
        block(a + row * a_stride, a_stride, b + 2 * column, b_stride, c + row * c_stride + column, c_stride, pairs,
              add);
  }

private:
  // 32 x 32 sums in tiles 0 to 3; each tile of a (4, 5) and of b (6, 7) is loaded once for two products.
  static void block(const bfloat16 *a, int64_t a_stride, const bfloat16 *b, int64_t b_stride, float *c,
                    int64_t c_stride, int64_t pairs, bool add) {
    const int64_t a_bytes = a_stride * 2, b_bytes = b_stride * 2, c_bytes = c_stride * 4;
    float *lower = c + TILE_HEIGHT * c_stride;
    if (add) {
      tile_load<0>(c, c_bytes);
      tile_load<1>(c + 16, c_bytes);
      tile_load<2>(lower, c_bytes);
      tile_load<3>(lower + 16, c_bytes);
    } else {
      tile_zero<0>();
      tile_zero<1>();
      tile_zero<2>();
      tile_zero<3>();
    }
    for (int64_t pair = 0; pair < pairs; pair += 16) {
      tile_load<4>(a + 2 * pair, a_bytes);
      tile_load<5>(a + TILE_HEIGHT * a_stride + 2 * pair, a_bytes);
      tile_load<6>(b + pair * b_stride, b_bytes);
      tile_load<7>(b + pair * b_stride + 32, b_bytes);
      tile_multiply<0, 4, 6>();
      tile_multiply<1, 4, 7>();
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    }
    tile_store<0>(c, c_bytes);
    tile_store<1>(c + 16, c_bytes);
    tile_store<2>(lower, c_bytes);
    tile_store<3>(lower + 16, c_bytes);
  }
};

} // namespace
