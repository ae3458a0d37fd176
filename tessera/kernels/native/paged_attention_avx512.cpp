// Attention over the paged cache for processors with AVX-512.
#include "export.h"
#include "paged_attention_avx512.h"

EXPORT int paged_attention_avx512(const Call *call, int64_t stored, int64_t threads) {
  const int count = static_cast<int>(threads);
  if (stored == FLOAT32) return attend<Plain, float>(*call, count);
  if (stored == BFLOAT16) return attend<Plain, Lanes::Bfloat16>(*call, count);
  if (stored == FLOAT16) return attend<Plain, Lanes::Float16>(*call, count);
  return attend<Plain, int8_t>(*call, count);
}
