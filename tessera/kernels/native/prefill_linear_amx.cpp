#include "prefill_linear.h"
#include "product_amx.h"

TESSERA_PREFILL_LINEAR(amx, ProductAmx)
