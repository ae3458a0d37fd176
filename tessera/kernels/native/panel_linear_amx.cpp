#include "panel_linear.h"
#include "product_amx.h"

TESSERA_PANEL_LINEAR(amx, ProductAmx)
