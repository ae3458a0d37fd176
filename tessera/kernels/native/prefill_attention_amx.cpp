#include "prefill_attention.h"
#include "product_amx.h"

TESSERA_PREFILL_ATTENTION(amx, ProductAmx)
