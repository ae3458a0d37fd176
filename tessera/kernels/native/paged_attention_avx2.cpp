#include "export.h"
#include "paged_attention.h"

EXPORT int paged_attention_avx2(const PagedCall *call, int64_t stored, int64_t threads) {
  return attend_plain(*call, stored, threads);
}
