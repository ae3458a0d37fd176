// Runs products by packed_linear_neon: cases from standard input, results to standard output. test_neon.py writes them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "packed_call.h"

extern "C" {
int packed_linear_neon(const PackedCall *calls, int64_t count);
int tessera_cpu_level();
}

// One thread computes, without a runtime for more.
extern "C" {
void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) { abort(); }
void GOMP_barrier() { abort(); }
int omp_get_thread_num() { return 0; }
int omp_get_num_threads() { return 1; }
}

namespace {

// As long as it says, with nothing around it that a wrong access would meet unseen: each is a piece of its own.
std::vector<char> piece() {
  int64_t bytes = 0;
  if (fread(&bytes, sizeof(bytes), 1, stdin) != 1) exit(0); // the end
  std::vector<char> found(bytes);
  if (bytes && fread(found.data(), bytes, 1, stdin) != 1) abort();
  return found;
}

const void *address(const std::vector<char> &bytes) { return bytes.empty() ? nullptr : bytes.data(); }

} // namespace

int main() {
  if (tessera_cpu_level() != 1) abort();
  for (;;) {
    const std::vector<char> numbers = piece(); // bits, rows, columns, tokens, dtype
    const int64_t *n = reinterpret_cast<const int64_t *>(numbers.data());
    const std::vector<char> codes = piece(), scales = piece(), minimums = piece(), super_scales = piece(),
                            super_minimums = piece();
    std::vector<char> inputs = piece(), out(n[3] * n[1] * element_bytes(n[4]));
    const Weight weight = {static_cast<const uint8_t *>(address(codes)),
                           static_cast<const uint8_t *>(address(scales)),
                           static_cast<const uint8_t *>(address(minimums)),
                           static_cast<const uint16_t *>(address(super_scales)),
                           static_cast<const uint16_t *>(address(super_minimums)),
                           n[0],
                           n[1],
                           n[2]};
    const PackedCall call = {{out.data(), n[4], n[3], n[1]}, {inputs.data(), n[4], n[3], n[2]}, weight, 1};
    if (packed_linear_neon(&call, 1)) abort();
    fwrite(out.data(), out.size(), 1, stdout);
  }
}
