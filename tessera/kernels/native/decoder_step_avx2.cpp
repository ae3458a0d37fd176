#include "export.h"
#include "decoder_step.h"

EXPORT int decoder_step_avx2(const StepCall *call) { return decoder_step(*call); }
