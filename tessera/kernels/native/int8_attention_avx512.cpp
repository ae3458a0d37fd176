#include "int8_attention.h"

EXPORT int int8_attention_avx512(const AttentionCall *call) {
  attend(*call);
  return 0;
}
