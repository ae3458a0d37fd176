// The mark of a C function that Python calls; everything else stays inside its file.
#pragma once

#define EXPORT extern "C" __attribute__((visibility("default")))
