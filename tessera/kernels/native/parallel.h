// One loop over threads, on the pool that PyTorch already has.
//
// PyTorch brings an OpenMP runtime; a second pool beside it would spin against it on the same cores. The
// library calls the runtime's C entry points (libgomp's, which Intel's and LLVM's offer too) and is not linked
// with any: the loader makes the one that is in the process visible. Inside a team (team.h), which holds a region
// of that pool already, the team's threads run the loop. Everything here is static, as all that a
// header holds must be: files are compiled for different processors, and a shared copy might be the wrong one.
#pragma once

#include "team.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

extern "C" {
void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags);
void GOMP_barrier();
int omp_get_thread_num();
int omp_get_num_threads();
}

// body(index, count) once in each of at most `threads` threads; the runtime may give fewer, so `count` counts.
template <class Body> static inline void parallel(int threads, const Body &body) {
  if (threads <= 1) {
    body(0, 1);
    return;
  }
  if (tessera_team_threads()) {
    auto run = [](void *data, int index, int count) { (*static_cast<const Body *>(data))(index, count); };
    tessera_team_run(threads, run, const_cast<Body *>(&body));
    return;
  }
  auto enter = [](void *data) {
    (*static_cast<const Body *>(data))(omp_get_thread_num(), omp_get_num_threads());
  };
  GOMP_parallel(enter, const_cast<Body *>(&body), static_cast<unsigned>(threads), 0);
}

// Waits for all threads of the region; `count` as `parallel` gave it.
static inline void barrier(int count) {
  if (count <= 1) return;
  if (tessera_team_threads())
    tessera_team_barrier(count);
  else
    GOMP_barrier();
}

namespace {

// Hands the things 0 to `total` out to threads in stretches of at most `most`. They shrink toward the end, down to one,
// so that threads end together: one that waits for another's last stretch leaves its share of the bandwidth unused.
class Stretches {
public:
  Stretches(int64_t total, int64_t most, int64_t threads)
      : total_(total), most_(std::max<int64_t>(most, 1)), divisor_(threads > 1 ? 2 * threads : 1) {}

  // Takes the next stretch; it ends before a multiple of `edge` things. False when all are taken.
  bool take(int64_t edge, int64_t &begin, int64_t &end) {
    begin = next_.load(std::memory_order_relaxed);
    do {
      if (begin >= total_) return false;
      const int64_t size = std::clamp<int64_t>((total_ - begin) / divisor_, 1, most_);
      end = std::min({begin + size, total_, (begin / edge + 1) * edge});
    } while (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed));
    return true;
  }

private:
  const int64_t total_, most_, divisor_;
  std::atomic<int64_t> next_{0};
};

} // namespace
