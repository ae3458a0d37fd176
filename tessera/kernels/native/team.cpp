#include "team.h"

#include <atomic>
#include <cstdint>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" {
void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags);
int omp_get_thread_num();
int omp_get_num_threads();
}

namespace {

// Looks before a thread sleeps, some tens of microseconds: longer than the norms and gates between two products take, and
// short enough that a core which others want is not held. Giving the core away between looks instead of sleeping put a
// thread behind all others at each look: with eight programs for each core a step took minutes.
constexpr int SPINS = 2000;
constexpr int LINE = 64;

// Tells the processor that this thread looks again and again.
inline void pause() {
#ifdef __aarch64__
  __asm__ volatile("yield");
#else
  __builtin_ia32_pause();
#endif
}

// A number that threads wait for: it is never written while another may be asleep without waking it.
struct Signal {
  alignas(LINE) std::atomic<uint32_t> value{0};
  std::atomic<int> sleepers{0};

  uint32_t get() const { return value.load(std::memory_order_acquire); }

  void add() {
    value.fetch_add(1); // in one order with `sleepers`: either this sees the sleeper, or it sees the new value
    if (sleepers.load()) syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
  }

  // Returns when the value is another than `seen`.
  void wait(uint32_t seen) {
    for (int spins = 0; spins < SPINS; ++spins) {
      if (get() != seen) return;
      pause();
    }
    sleepers.fetch_add(1);
    while (get() == seen) syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    sleepers.fetch_sub(1);
  }
};

struct Team {
  void (*work)(void *);
  void *work_data;
  int threads = 0;
  // The body that runs; written before `posted` grows, and not again before all others have said `done`.
  void (*body)(void *, int, int) = nullptr;
  void *data = nullptr;
  int count = 0;
  bool over = false;
  Signal posted;    // bodies
  Signal done;      // bodies that a thread has left or passed over, of all threads but the first
  Signal passed;    // barriers
  alignas(LINE) std::atomic<int> arrived{0}; // at the barrier
};

thread_local Team *own = nullptr;

void serve(Team &team, int index) {
  for (uint32_t seen = 0;; ++seen) {
    team.posted.wait(seen);
    if (team.over) return;
    if (index < team.count) team.body(team.data, index, team.count);
    team.done.add();
  }
}

void enter(void *data) {
  Team &team = *static_cast<Team *>(data);
  own = &team;
  if (omp_get_thread_num() == 0) {
    team.threads = omp_get_num_threads(); // the runtime may give fewer than were asked for
    team.work(team.work_data);
    team.over = true;
    team.posted.add();
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
  const uint32_t all = team.done.get() + static_cast<uint32_t>(team.threads - 1);
  team.posted.add();
  body(data, 0, count);
  for (uint32_t done; (done = team.done.get()) != all;) team.done.wait(done);
}

extern "C" void tessera_team_barrier(int count) {
  Team &team = *own;
  const uint32_t before = team.passed.get();
  if (team.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
    team.arrived.store(0, std::memory_order_relaxed);
    team.passed.add();
    return;
  }
  team.passed.wait(before);
}
