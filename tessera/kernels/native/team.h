// A team of threads that stays awake from one parallel loop to the next.
//
// One region of the process's OpenMP runtime holds the team, so there is no second pool. Its first thread computes a
// step; `parallel` (parallel.h) hands a loop's body to the others, which wait by spinning for a while and then
// sleep. Compiled once, for any processor of the machine's kind: all processors' files share it.
#pragma once

extern "C" {
// Runs work(data) in the first of at most `threads` threads, with the others at its disposal, and returns when it ends.
__attribute__((visibility("hidden"))) void tessera_with_team(int threads, void (*work)(void *data), void *data);
// The threads of the team that the calling thread belongs to; 0 outside a team.
__attribute__((visibility("hidden"))) int tessera_team_threads();
// body(data, index, count) once in each of `count` threads, at most the team's; only the team's first thread calls it.
__attribute__((visibility("hidden"))) void tessera_team_run(int count, void (*body)(void *data, int index, int count),
                                                            void *data);
// Waits for the `count` threads of the body that runs.
__attribute__((visibility("hidden"))) void tessera_team_barrier(int count);
}
