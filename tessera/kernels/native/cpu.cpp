// What this processor and its system can run, and which sources the library was built from.
#include "export.h"

#ifdef __aarch64__

#include <sys/auxv.h>

// 1 with dot products of bytes (Armv8.2's), else 0.
EXPORT int tessera_cpu_level() {
  constexpr unsigned long DOT_PRODUCTS = 1ul << 20;
  return getauxval(AT_HWCAP) & DOT_PRODUCTS ? 1 : 0;
}

#else

#include <cpuid.h>
#include <cstdint>

namespace {

uint64_t enabled_states() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

constexpr uint64_t AVX_STATE = 0x6, AVX512_STATE = 0xe6, AMX_STATE = 0x60000;

} // namespace

// The highest of 0 (none), 1 AVX2, 2 AVX512-VNNI, 3 with bfloat16, 4 AMX. Each holds all below it. A system that
// does not save a register when it switches threads has it switched off, whatever the processor can.
EXPORT int tessera_cpu_level() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const bool xsave = c & (1u << 27), avx = c & (1u << 28), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!(xsave && avx && fma && f16c)) return 0;
  const uint64_t states = enabled_states();
  if ((states & AVX_STATE) != AVX_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if (!(b & (1u << 5))) return 0;
  const uint32_t foundation = 1u << 16, double_quad = 1u << 17, byte_word = 1u << 30, lengths = 1u << 31;
  const uint32_t avx512 = foundation | double_quad | byte_word | lengths;
  const bool vnni = c & (1u << 11);
  if ((b & avx512) != avx512 || !vnni || (states & AVX512_STATE) != AVX512_STATE) return 1;
  const uint32_t amx = (1u << 22) | (1u << 24) | (1u << 25); // bfloat16, tiles, int8
  const bool has_amx = (d & amx) == amx && (states & AMX_STATE) == AMX_STATE;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5))) return 2;
  return has_amx ? 4 : 3;
}

#endif

EXPORT const char *tessera_sources_digest() { return TESSERA_SOURCES_DIGEST; }

// The highest level that the compiler had instructions for.
EXPORT int tessera_compiled_level() { return TESSERA_COMPILED_LEVEL; }
