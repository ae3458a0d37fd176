// A product's rows in memory by NEON: 32 inputs rounded to 8 bits, and 16 sums stored; the bits are packed_rows_x86.h's.
#pragma once

#include "packed_call.h"

#include <cstring>

#include <arm_neon.h>

namespace {

inline float32x4_t load4(const char *from, int64_t dtype) {
  if (dtype == FLOAT32) return vld1q_f32(reinterpret_cast<const float *>(from));
  const uint16x4_t half = vld1_u16(reinterpret_cast<const uint16_t *>(from));
  if (dtype == FLOAT16) return vcvt_f32_f16(vreinterpret_f16_u16(half));
  return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}

// Float32 to bfloat16, half to even; a NaN keeps its top bits and gets one that no rounding can carry away.
inline uint16x4_t bfloat16_of(float32x4_t values) {
  const uint32x4_t bits = vreinterpretq_u32_f32(values);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(values, values), rounded, quiet), 16);
}

// The first `count` of 16 sums to the outputs.
inline void store(const float *sums, char *to, int64_t dtype, int64_t count) {
  char values[TILE_ROWS * sizeof(float)];
  for (int i = 0; i < TILE_ROWS; i += 4) {
    const float32x4_t four = vld1q_f32(sums + i);
    char *at = values + i * element_bytes(dtype);
    if (dtype == FLOAT32) std::memcpy(at, &four, 16);
    const uint16x4_t halves = dtype == FLOAT16 ? vreinterpret_u16_f16(vcvt_f16_f32(four)) : bfloat16_of(four);
    if (dtype != FLOAT32) std::memcpy(at, &halves, 8);
  }
  std::memcpy(to, values, count * element_bytes(dtype));
}

// One group of 32 inputs in 8 bits: returns the scale, writes codes and their sum. A group that holds a NaN or an
// infinity gets the scale NaN, which every sum of its token then is.
inline float quantize_group(const char *from, int64_t dtype, int8_t *codes, int32_t &sum) {
  float32x4_t values[8];
  uint32x4_t largest = vdupq_n_u32(0);
  for (int i = 0; i < 8; ++i) {
    values[i] = load4(from + 4 * i * element_bytes(dtype), dtype);
    // As whole numbers magnitudes are ordered too, with infinity and NaN above all else.
    largest = vmaxq_u32(largest, vandq_u32(vreinterpretq_u32_f32(values[i]), vdupq_n_u32(0x7fffffff)));
  }
  const uint32_t top = vmaxvq_u32(largest);
  float most;
  std::memcpy(&most, &top, sizeof(most));
  const float scale = most / 127.0f;
  sum = 0;
  if (!(scale >= 0x1p-126f && scale <= 0x1.fffffep127f)) { // too small to invert, or not finite
    std::memset(codes, 0, GROUP);
    return scale < 0x1p-126f ? scale : __builtin_nanf("");
  }
  const float inverse = 1.0f / scale;
  int32x4_t total = vdupq_n_s32(0), whole[8];
  for (int i = 0; i < 8; ++i) {
    whole[i] = vcvtnq_s32_f32(vmulq_n_f32(values[i], inverse)); // half to even
    total = vaddq_s32(total, whole[i]);
  }
  for (int i = 0; i < 8; i += 4) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(whole[i]), vqmovn_s32(whole[i + 1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(whole[i + 2]), vqmovn_s32(whole[i + 3]));
    vst1q_s8(codes + 4 * i, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
  }
  sum = vaddvq_s32(total);
  return scale;
}

} // namespace
