// Sixteen floats at once, in the compiler's own vector type: one source for AVX2 (two registers) and AVX-512.
//
// Everything is static: each file is compiled for its own processor. With contraction off, both give the
// same bits.
#pragma once

#include <cstdint>
#include <cstring>

// Nothing here is called across files, so how a vector is passed between them is of no account.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace {

constexpr int64_t LANES = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Signed __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

struct bfloat16 {
  uint16_t bits;
};

template <class To, class From> inline To reinterpret(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  memcpy(&out, &value, sizeof(To));
  return out;
}

inline Floats all(float value) { return Floats{} + value; }

// The nearest bfloat16 of each, ties to even as PyTorch rounds, in the upper half of its word.
inline Words round_to_bfloat16(Floats value) {
  const Words bits = reinterpret<Words>(value);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  const Words is_nan = reinterpret<Words>(value != value);
  return (rounded & ~is_nan) | (is_nan & 0x7fc00000u);
}

inline Floats load(const float *from) {
  Floats out;
  memcpy(&out, from, sizeof(out));
  return out;
}

inline Floats load(const bfloat16 *from) {
  Halves halves;
  memcpy(&halves, from, sizeof(halves));
  return reinterpret<Floats>(__builtin_convertvector(halves, Words) << 16);
}

inline void store(float *to, Floats value) { memcpy(to, &value, sizeof(value)); }

inline void store(bfloat16 *to, Floats value) {
  const Halves halves = __builtin_convertvector(round_to_bfloat16(value) >> 16, Halves);
  memcpy(to, &halves, sizeof(halves));
}

// The first `count` lanes; the others are zero, and stay as they are in memory.
template <class Number> inline Floats load_part(const Number *from, int64_t count) {
  Number padded[LANES] = {};
  memcpy(padded, from, count * sizeof(Number));
  return load(padded);
}

template <class Number> inline void store_part(Number *to, Floats value, int64_t count) {
  Number padded[LANES];
  store(padded, value);
  memcpy(to, padded, count * sizeof(Number));
}

inline float sum(Floats value) {
  float lanes[LANES];
  store(lanes, value);
  for (int width = LANES / 2; width; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

// e to the power of each, within 2 units in the last place; 0 below -87.3, infinite above 88.7.
// 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]: the Taylor series to the 7th power, whose next term is 5e-9.
inline Floats exponential(Floats x) {
  const Floats magic = all(12582912.0f); // 1.5 * 2^23: adding it rounds to whole numbers
  const Floats low = all(-87.3f), high = all(88.7f);
  const Floats inside = x < low ? low : (x > high ? high : x);
  const Floats shifted = inside * 1.44269504f + magic;
  const Floats whole = shifted - magic;
  // ln 2 in two parts: the first has few enough bits that its product with `whole` is exact.
  const Floats rest = (inside - whole * 0.693359375f) - whole * -2.12194440e-4f;
  const float factors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  Floats power = all(1.0f / 5040);
  for (float factor : factors) power = power * rest + factor;
  // In two steps, since 2^128 itself is no float.
  const Signed exponent = reinterpret<Signed>(shifted) - reinterpret<Signed>(magic);
  const Signed half = exponent >> 1;
  const Floats first = reinterpret<Floats>((half + 127) << 23);
  const Floats second = reinterpret<Floats>((exponent - half + 127) << 23);
  const Floats result = power * first * second;
  const Floats bounded = x < low ? Floats{} : (x > high ? all(__builtin_inff()) : result);
  return x != x ? x : bounded;
}

} // namespace
