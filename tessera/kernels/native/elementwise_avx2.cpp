#include "elementwise.h"

TESSERA_ELEMENTWISE(avx2, float32, float)
TESSERA_ELEMENTWISE(avx2, bfloat16, bfloat16)
