// Products with packed weights by NEON's dot products: four columns of 4 rows times one token's four inputs in one
// instruction, both sides signed.
//
// With 8 bits the centre is taken off the unsigned codes first, as on AVX2. Sums of whole numbers are exact and floats
// are added in the order of the other processors, so the results have their bits.
#include "export.h"
#include "packed_linear.h"

namespace {

constexpr int QUARTERS = 4;     // of a tile: a register's sums are 4 rows'
constexpr int CHAIN_TOKENS = 2; // that share the codes as they are unpacked: what 32 registers hold
constexpr int64_t PREFETCH_BYTES = 2 << 10;

inline float32x4_t halves(const uint8_t *from) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
}

inline float32x4_t multipliers(const uint8_t *from) {
  uint32_t four;
  std::memcpy(&four, from, 4);
  const uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}

// Scales (or minimums) of one group of a quarter of a tile.
template <bool SUPER>
inline float32x4_t group_values(const uint8_t *values, const uint16_t *supers, int64_t tile, int64_t groups,
                                int64_t group, int quarter) {
  const int64_t place = (tile * groups + group) * TILE_ROWS + quarter * 4;
  if (!SUPER) return halves(values + place * 2);
  const int64_t super = tile * (groups / SUPER_GROUPS) + group / SUPER_GROUPS;
  const uint16_t *at = supers + super * TILE_ROWS + quarter * 4;
  return vmulq_f32(multipliers(values + place), halves(reinterpret_cast<const uint8_t *>(at)));
}

// sums += codes times the inputs 4 * LANE to 4 * LANE + 3 of 16.
template <int LANE> inline int32x4_t dot(int32x4_t sums, int8x16_t codes, int8x16_t inputs) {
  return vdotq_laneq_s32(sums, codes, inputs, LANE);
}

// The products of columns 4 * J to 4 * J + 3, and with 4 bits those 16 further on, of a token's 32 inputs.
template <int BITS, int J>
inline void add_columns(const int8x16_t (&codes)[2], const int8_t *inputs, int32x4_t &sum) {
  if (BITS == 8) {
    sum = dot<J % 4>(sum, codes[0], vld1q_s8(inputs + J / 4 * 16));
  } else {
    sum = dot<J % 4>(sum, codes[0], vld1q_s8(inputs));
    sum = dot<J % 4>(sum, codes[1], vld1q_s8(inputs + 16));
  }
}

// Products of one 64-byte line of codes, the J-th of a group, with TOKENS tokens.
template <int BITS, int TOKENS, int J>
inline void add_line(const uint8_t *line, const int8_t *inputs, int32x4_t (&sums)[TOKENS][QUARTERS]) {
  for (int quarter = 0; quarter < QUARTERS; ++quarter) {
    const uint8x16_t bytes = vld1q_u8(line + 64 * J + 16 * quarter);
    int8x16_t codes[2];
    codes[0] = vreinterpretq_s8_u8(BITS == 8 ? veorq_u8(bytes, vdupq_n_u8(0x80)) : vandq_u8(bytes, vdupq_n_u8(15)));
    codes[1] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
    for (int t = 0; t < TOKENS; ++t) add_columns<BITS, J>(codes, inputs + t * GROUP, sums[t][quarter]);
  }
}

template <int BITS, int TOKENS, size_t... J>
inline void add_lines(const uint8_t *codes, const int8_t *inputs, int32x4_t (&sums)[TOKENS][QUARTERS],
                      std::index_sequence<J...>) {
  (add_line<BITS, TOKENS, J>(codes, inputs, sums), ...);
}

// Adds a group's products, scaled, to TOKENS tokens' sums, which begin at `sums`; `cell` is the first token's.
template <int BITS, bool MINIMUMS, int TOKENS>
inline void add_group(const uint8_t *codes, const float32x4_t (&scale)[QUARTERS],
                      const float32x4_t (&minimum)[QUARTERS], const Panel &panel, int64_t cell,
                      float32x4_t (*sums)[QUARTERS]) {
  int32x4_t products[TOKENS][QUARTERS];
  for (int t = 0; t < TOKENS; ++t) {
    int32_t share = 0;
    if (!MINIMUMS && BITS == 4) std::memcpy(&share, panel.shares + cell + t, 4);
    for (int quarter = 0; quarter < QUARTERS; ++quarter) products[t][quarter] = vdupq_n_s32(share);
  }
  add_lines<BITS, TOKENS>(codes, panel.codes + cell * GROUP, products, std::make_index_sequence<BITS>());
  for (int t = 0; t < TOKENS; ++t)
    for (int quarter = 0; quarter < QUARTERS; ++quarter) {
      const float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(products[t][quarter]), scale[quarter]);
      sums[t][quarter] = vfmaq_n_f32(sums[t][quarter], scaled, panel.scales[cell + t]);
      if (MINIMUMS) sums[t][quarter] = vfmaq_n_f32(sums[t][quarter], minimum[quarter], panel.shares[cell + t]);
    }
}

template <int BITS, bool MINIMUMS, bool SUPER, int TOKENS>
void tile_product(const Weight &weight, int64_t tile, const Panel &panel, float *out) {
  constexpr int WHOLE = TOKENS / CHAIN_TOKENS * CHAIN_TOKENS, REST = TOKENS - WHOLE;
  const int64_t groups = weight.groups();
  const uint8_t *codes = weight.codes + tile * groups * 64 * BITS;
  float32x4_t sums[TOKENS][QUARTERS];
  for (int t = 0; t < TOKENS; ++t)
    for (int quarter = 0; quarter < QUARTERS; ++quarter) sums[t][quarter] = vdupq_n_f32(0);
  for (int64_t group = 0; group < groups; ++group, codes += 64 * BITS) {
    for (int line = 0; line < BITS; ++line) __builtin_prefetch(codes + PREFETCH_BYTES + 64 * line);
    float32x4_t scale[QUARTERS], minimum[QUARTERS] = {};
    for (int q = 0; q < QUARTERS; ++q) {
      scale[q] = group_values<SUPER>(weight.scales, weight.super_scales, tile, groups, group, q);
      if (!MINIMUMS) continue;
      minimum[q] = group_values<SUPER>(weight.minimums, weight.super_minimums, tile, groups, group, q);
      if (SUPER) minimum[q] = vsubq_f32(vdupq_n_f32(0), minimum[q]);
      // With 8 bits the products lack the centre, which the minimum then makes up for.
      if (BITS == 8) minimum[q] = vfmaq_n_f32(minimum[q], scale[q], 128.0f);
    }
    const int64_t cell = group * TOKENS;
    for (int t = 0; t < WHOLE; t += CHAIN_TOKENS)
      add_group<BITS, MINIMUMS, CHAIN_TOKENS>(codes, scale, minimum, panel, cell + t, sums + t);
    if constexpr (REST > 0) add_group<BITS, MINIMUMS, REST>(codes, scale, minimum, panel, cell + WHOLE, sums + WHOLE);
  }
  for (int t = 0; t < TOKENS; ++t)
    for (int quarter = 0; quarter < QUARTERS; ++quarter)
      vst1q_f32(out + t * OUT_STRIDE + 4 * quarter, sums[t][quarter]);
}

} // namespace

EXPORT int packed_linear_neon(const PackedCall *calls, int64_t count) { return packed_linear(calls, count); }
