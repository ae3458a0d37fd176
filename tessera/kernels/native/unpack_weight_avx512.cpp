#include "unpack_weight.h"

TESSERA_UNPACK_WEIGHT(avx512)
