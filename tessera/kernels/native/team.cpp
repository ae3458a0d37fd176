#include "team.h"

#include <atomic>
#include <cstdint>

#include <immintrin.h>
#include <sched.h>

extern "C" {
void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags);
int omp_get_thread_num();
int omp_get_num_threads();
}

namespace {

// Looks before a thread gives its core away, some tens of microseconds: longer than the norms and gates between two
// products take, and short enough that a core which others want is not held.
constexpr int SPINS = 2000;
constexpr int LINE = 64;

struct Team {
  void (*work)(void *);
  void *work_data;
  int threads = 0;
  // The body that runs; written before `posted` grows, and not again before all others have said `done`.
  void (*body)(void *, int, int) = nullptr;
  void *data = nullptr;
  int count = 0;
  bool over = false;
  alignas(LINE) std::atomic<uint32_t> posted{0};
  alignas(LINE) std::atomic<int> done{0};
  alignas(LINE) std::atomic<int> arrived{0};
  alignas(LINE) std::atomic<uint32_t> passed{0}; // barriers
};

thread_local Team *own = nullptr;

template <class Condition> void wait_until(const Condition &condition) {
  for (int spins = 0; !condition(); ++spins) {
    if (spins < SPINS)
      _mm_pause();
    else
      sched_yield();
  }
}

void serve(Team &team, int index) {
  for (uint32_t seen = 0;; ++seen) {
    wait_until([&] { return team.posted.load(std::memory_order_acquire) != seen; });
    if (team.over) return;
    if (index < team.count) team.body(team.data, index, team.count);
    team.done.fetch_add(1, std::memory_order_release);
  }
}

void enter(void *data) {
  Team &team = *static_cast<Team *>(data);
  own = &team;
  if (omp_get_thread_num() == 0) {
    team.threads = omp_get_num_threads(); // the runtime may give fewer than were asked for
    team.work(team.work_data);
    team.over = true;
    team.posted.fetch_add(1, std::memory_order_release);
  } else {
    serve(team, omp_get_thread_num());
  }
  own = nullptr;
}

} // namespace

extern "C" void tessera_with_team(int threads, void (*work)(void *), void *data) {
  if (threads <= 1) return work(data);
  Team team;
  team.work = work, team.work_data = data;
  GOMP_parallel(enter, &team, static_cast<unsigned>(threads), 0);
}

extern "C" int tessera_team_threads() { return own ? own->threads : 0; }

extern "C" void tessera_team_run(int count, void (*body)(void *, int, int), void *data) {
  Team &team = *own;
  if (count > team.threads) count = team.threads;
  if (count <= 1) return body(data, 0, 1);
  team.body = body, team.data = data, team.count = count;
  team.done.store(0, std::memory_order_relaxed);
  team.posted.fetch_add(1, std::memory_order_release);
  body(data, 0, count);
  wait_until([&] { return team.done.load(std::memory_order_acquire) == team.threads - 1; });
}

extern "C" void tessera_team_barrier(int count) {
  Team &team = *own;
  const uint32_t before = team.passed.load(std::memory_order_acquire);
  if (team.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
    team.arrived.store(0, std::memory_order_relaxed);
    team.passed.store(before + 1, std::memory_order_release);
    return;
  }
  wait_until([&] { return team.passed.load(std::memory_order_acquire) != before; });
}
