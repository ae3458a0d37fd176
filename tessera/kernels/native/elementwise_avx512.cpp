#include "elementwise.h"

TESSERA_ELEMENTWISE(avx512, float32, float)
TESSERA_ELEMENTWISE(avx512, bfloat16, bfloat16)
