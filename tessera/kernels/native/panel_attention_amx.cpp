#include "panel_attention.h"
#include "product_amx.h"

TESSERA_PANEL_ATTENTION(amx, ProductAmx)
