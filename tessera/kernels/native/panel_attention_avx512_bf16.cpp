#include "panel_attention.h"
#include "product_avx512_bf16.h"

TESSERA_PANEL_ATTENTION(avx512_bf16, ProductAvx512)
