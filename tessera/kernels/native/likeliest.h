// The likeliest id of a row of logits, as torch's argmax over the row in float32 with the penalties added: of equal
// ones the lowest id.
#pragma once

#include <cmath>

#include "vector.h"

namespace {

typedef int32_t Wholes __attribute__((vector_size(LANES * 4)));

// `sound` unless a logit, penalized or not, is NaN or plus infinity; id -1 if no id is allowed.
struct Likeliest {
  float value;
  int32_t id;
  bool sound;
};

inline float widened(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// The better of two, the second of later ids.
inline Likeliest better(Likeliest a, Likeliest b) {
  const Likeliest &best = b.value > a.value ? b : a;
  return {best.value, best.id, a.sound && b.sound};
}

// Of the ids `begin` to `end`. Penalties are 0 or minus infinity.
inline Likeliest likeliest(const bfloat16 *logits, const bfloat16 *penalties, int64_t begin, int64_t end) {
  Floats best = all(-INFINITY);
  Wholes ids = {}, odd = {}, id;
  for (int64_t lane = 0; lane < LANES; ++lane) ids[lane] = -1, id[lane] = static_cast<int32_t>(begin + lane);
  for (; begin + LANES <= end; begin += LANES, id += static_cast<int32_t>(LANES)) {
    const Floats logit = load(logits + begin), value = logit + load(penalties + begin);
    odd |= (logit != logit) | (logit == all(INFINITY));
    const Wholes more = value > best;
    best = more ? value : best;
    ids = more ? id : ids;
  }
  Likeliest found = {-INFINITY, -1, true};
  for (int64_t lane = 0; lane < LANES; ++lane) {
    if (odd[lane]) found.sound = false;
    // Lanes hold every sixteenth (or eighth) id, so of equal ones the lower id is looked for.
    if (best[lane] > found.value || (best[lane] == found.value && ids[lane] >= 0 && ids[lane] < found.id))
      found.value = best[lane], found.id = ids[lane];
  }
  for (; begin < end; ++begin) {
    const float logit = widened(logits[begin]), value = logit + widened(penalties[begin]);
    found = better(found, {value, value > -INFINITY ? static_cast<int32_t>(begin) : -1,
                           !(logit != logit || logit == INFINITY)});
  }
  return found;
}

} // namespace
