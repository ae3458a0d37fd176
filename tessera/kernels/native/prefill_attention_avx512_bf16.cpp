#include "prefill_attention.h"
#include "product_avx512_bf16.h"

TESSERA_PREFILL_ATTENTION(avx512_bf16, ProductAvx512)
