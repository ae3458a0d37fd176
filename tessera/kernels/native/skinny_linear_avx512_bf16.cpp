#include "low_rank.h"
#include "skinny_linear.h"

namespace {

struct DotProduct {
  using Side = __m512bh;
  static constexpr int64_t COLUMNS = 32;
  static constexpr int TOKENS = 4;
  static Side side(const bfloat16 *from) { return reinterpret<__m512bh>(_mm512_loadu_si512(from)); }
  static void add(Floats &sum, Side a, Side b) { sum = _mm512_dpbf16_ps(sum, a, b); }
};

} // namespace

EXPORT int skinny_linear_avx512_bf16(const SkinnyCall *calls, int64_t count) {
  return skinny_linear<DotProduct>(calls, count);
}
EXPORT int low_rank_avx512_bf16(const LowRankCall *call) { return low_rank<DotProduct>(*call); }
