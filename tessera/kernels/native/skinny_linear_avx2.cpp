#include "low_rank.h"
#include "skinny_linear.h"

namespace {

// Pairs as two registers of float32, the even and the odd ones.
struct WidenedProduct {
  using Side = Pairs;
  static constexpr int64_t COLUMNS = 2 * LANES;
  static constexpr int TOKENS = 2; // 2 x 4 sums and a row's pairs are most of the 16 registers
  static Side side(const bfloat16 *from) { return load_pairs(from); }
  static void add(Floats &sum, Side a, Side b) { sum = fused(a.odd, b.odd, fused(a.even, b.even, sum)); }
};

} // namespace

EXPORT int skinny_linear_avx2(const SkinnyCall *calls, int64_t count) {
  return skinny_linear<WidenedProduct>(calls, count);
}
EXPORT int low_rank_avx2(const LowRankCall *call) { return low_rank<WidenedProduct>(*call); }
