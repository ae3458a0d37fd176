// A decoder's step of few tokens in one call: the kernels that the composed step calls, in the same order.
//
// What Python passes holds the kernels' addresses, so that a processor's best ones are chosen in one place
// (kernels/library.py) and the numbers are the composed step's, bit for bit. Between them are only copies, and sums in
// float32 rounded as PyTorch rounds. One team of threads serves all kernels of the step. The twin is the model's own
// modules (model/decoder.py), and for the choice of greedy tokens engine/sampler.py.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <initializer_list>

#include "likeliest.h"
#include "low_rank_call.h"
#include "packed_call.h"
#include "paged_call.h"
#include "parallel.h"
#include "skinny_call.h"
#include "team.h"
#include "vector.h"

namespace {

constexpr int64_t NUMBERS_PER_THREAD = 1 << 15; // as in kernels/elementwise.py
constexpr int64_t ALIGNMENT = 64;
constexpr int64_t MOST_PARTS = 3; // products that share a pass

struct StepKernels {
  int (*packed_linear)(const PackedCall *, int64_t count);
  int (*skinny_linear)(const SkinnyCall *, int64_t count);
  int (*attention)(const PagedCall *, int64_t stored, int64_t threads);
  int (*rms_norm)(const bfloat16 *, int64_t, const bfloat16 *, bfloat16 *, int64_t, int64_t, float, int64_t);
  int (*rotate)(bfloat16 *, int64_t, int64_t, const float *, const float *, int64_t, int64_t, int64_t, int64_t);
  int (*silu_gate)(bfloat16 *, int64_t, const bfloat16 *, int64_t, int64_t, int64_t, int64_t);
  int (*low_rank)(const LowRankCall *);
};

// An adapter's matrices beside a linear, as in `LowRankPart`; rank 0 if it changes others only.
struct StepSlot {
  const bfloat16 *a, *b;
  int64_t rank;
  double scale;
};

// The rows of a slot's adapter.
struct StepStretch {
  int64_t slot, first, tokens;
};

constexpr int64_t MOST_STRETCHES = 16; // no more than rows

// A packed weight, or a plain one if `plain` is not null; `weight` has the rows and columns of both.
struct StepLinear {
  const bfloat16 *plain;
  Weight weight;
  const StepSlot *slots; // by number; null without adapters
};

struct StepLayer {
  const bfloat16 *attention_norm, *ffn_norm;
  StepLinear wq, wk, wv, wo, w1, w3, w2;
  bfloat16 *keys, *values; // the cache's, (slots, M, K)
};

// What kernels/decoder_step.py passes, field by field.
struct StepCall {
  StepKernels kernels;
  const StepLayer *layers;
  const bfloat16 *final_norm;
  bfloat16 *hidden;    // (T, D), the embeddings; used as memory
  bfloat16 *out;       // (T, D), normed
  const float *query_cos, *query_sin, *key_cos, *key_sin; // (T, K / 2)
  const int64_t *slots; // (T)
  PagedCall attention;  // all but queries, out, keys and values
  StepLinear head;           // without rows: no token is chosen
  const bfloat16 *penalties; // (V): -inf for ids that are never chosen, else 0
  int64_t *ids;              // (T): the likeliest ids
  int64_t num_layers, tokens, width, hidden_width, stored, threads;
  double eps;
  const StepStretch *stretches;
  int64_t num_stretches;
  bfloat16 *low; // (T, the largest rank)
};

// A linear, and where its product goes.
struct StepPart {
  const StepLinear &linear;
  bfloat16 *to;
};

class Step {
public:
  explicit Step(const StepCall &call)
      : call_(call), heads_(call.attention.heads), kv_heads_(call.attention.kv_heads), head_(call.attention.width) {
    const int64_t t = call.tokens;
    int64_t bytes = 0;
    auto take = [&](int64_t numbers, int64_t size) {
      const int64_t start = bytes;
      bytes += (numbers * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
      return start;
    };
    const int64_t normed = take(t * call.width, 2), added = take(t * call.width, 2);
    const int64_t queries = take(t * heads_ * head_, 2), keys = take(t * kv_heads_ * head_, 2);
    const int64_t values = take(t * kv_heads_ * head_, 2), gate = take(t * call.hidden_width, 2);
    const int64_t up = take(t * call.hidden_width, 2);
    const int64_t wide_queries = take(t * heads_ * head_, 4), wide_out = take(t * heads_ * head_, 4);
    const int64_t logits = take(t * call.head.weight.rows, 2), found = take(t * call.threads, sizeof(Likeliest));
    memory_ = static_cast<char *>(std::aligned_alloc(ALIGNMENT, bytes));
    if (!memory_) return;
    auto halves_at = [&](int64_t start) { return reinterpret_cast<bfloat16 *>(memory_ + start); };
    normed_ = halves_at(normed), added_ = halves_at(added), queries_ = halves_at(queries), keys_ = halves_at(keys);
    values_ = halves_at(values), gate_ = halves_at(gate), up_ = halves_at(up);
    wide_queries_ = reinterpret_cast<float *>(memory_ + wide_queries);
    wide_out_ = reinterpret_cast<float *>(memory_ + wide_out);
    logits_ = halves_at(logits), found_ = reinterpret_cast<Likeliest *>(memory_ + found);
  }
  ~Step() { std::free(memory_); }
  Step(const Step &) = delete;

  // 0, or what the kernel that failed returned: 1 when there is no memory.
  int run() {
    if (!memory_) return 1;
    const int team = tessera_team_threads();
    threads_ = team ? team : 1;
    for (int64_t layer = 0; layer < call_.num_layers; ++layer)
      if (const int failed = run_layer(call_.layers[layer])) return failed;
    norm(call_.hidden, call_.final_norm, call_.out);
    return call_.head.weight.rows ? choose() : 0;
  }

private:
  // Each row's likeliest id; -1 where a logit is not finite, or no id is allowed.
  int choose() {
    const int64_t vocabulary = call_.head.weight.rows, room = call_.threads;
    if (const int failed = products(call_.out, {{call_.head, logits_}})) return failed;
    const int64_t count = std::clamp<int64_t>(call_.tokens * vocabulary / NUMBERS_PER_THREAD, 1, threads_);
    std::fill(found_, found_ + call_.tokens * room, Likeliest{-INFINITY, -1, true});
    parallel(static_cast<int>(count), [&](int index, int team) {
      const int64_t begin = vocabulary * index / team, end = vocabulary * (index + 1) / team;
      for (int64_t token = 0; token < call_.tokens; ++token)
        found_[token * room + index] = likeliest(logits_ + token * vocabulary, call_.penalties, begin, end);
    });
    for (int64_t token = 0; token < call_.tokens; ++token) {
      Likeliest best = found_[token * room];
      for (int64_t index = 1; index < room; ++index) best = better(best, found_[token * room + index]);
      call_.ids[token] = best.sound ? best.id : -1;
    }
    return 0;
  }

  int run_layer(const StepLayer &layer) {
    const int64_t numbers = call_.tokens * heads_ * head_;
    norm(call_.hidden, layer.attention_norm, normed_);
    int failed = products(normed_, {{layer.wq, queries_}, {layer.wk, keys_}, {layer.wv, values_}});
    rotate(queries_, call_.query_cos, call_.query_sin, heads_);
    rotate(keys_, call_.key_cos, call_.key_sin, kv_heads_);
    write(keys_, layer.keys), write(values_, layer.values);
    attend(layer, numbers);
    failed |= products(queries_, {{layer.wo, added_}});
    add(call_.tokens * call_.width);
    norm(call_.hidden, layer.ffn_norm, normed_);
    failed |= products(normed_, {{layer.w1, gate_}, {layer.w3, up_}});
    const int64_t wide = call_.hidden_width;
    call_.kernels.silu_gate(gate_, wide, up_, wide, call_.tokens, wide, threads_for(call_.tokens * wide));
    failed |= products(gate_, {{layer.w2, added_}});
    add(call_.tokens * call_.width);
    return failed;
  }

  int64_t threads_for(int64_t numbers) const { return std::clamp<int64_t>(numbers / NUMBERS_PER_THREAD, 1, threads_); }

  void norm(const bfloat16 *from, const bfloat16 *weight, bfloat16 *to) {
    call_.kernels.rms_norm(from, call_.width, weight, to, call_.tokens, call_.width, static_cast<float>(call_.eps),
                           threads_for(call_.tokens * call_.width));
  }

  // Products of the same inputs; neighbours of a kind share a pass of the threads.
  int products(const bfloat16 *from, std::initializer_list<StepPart> parts) {
    PackedCall packed[MOST_PARTS];
    SkinnyCall skinny[MOST_PARTS];
    int failed = 0;
    for (auto part = parts.begin(); part != parts.end();) {
      const StepLinear &kind = part->linear;
      int64_t count = 0;
      for (; part != parts.end() && alike(part->linear, kind); ++part, ++count) {
        const Weight &weight = part->linear.weight;
        const int64_t rows = weight.rows, columns = weight.columns, tokens = call_.tokens;
        skinny[count] = {part->to, from, part->linear.plain, tokens, columns, rows, columns, threads_};
        packed[count] = {{part->to, BFLOAT16, tokens, rows},
                         {const_cast<bfloat16 *>(from), BFLOAT16, tokens, columns}, weight, threads_};
      }
      failed |= kind.plain ? call_.kernels.skinny_linear(skinny, count) : call_.kernels.packed_linear(packed, count);
    }
    for (const StepPart &part : parts) failed |= failed ? failed : add_adapters(part.linear, from, part.to);
    return failed;
  }

  int add_adapters(const StepLinear &linear, const bfloat16 *from, bfloat16 *to) {
    if (!linear.slots) return 0;
    LowRankPart parts[MOST_STRETCHES];
    int64_t count = 0;
    bfloat16 *low = call_.low;
    for (const StepStretch *each = call_.stretches; each < call_.stretches + call_.num_stretches; ++each) {
      const StepSlot &slot = linear.slots[each->slot];
      if (!slot.rank) continue;
      parts[count++] = {slot.a, slot.b, low, slot.rank, each->first, each->tokens, slot.scale};
      low += each->tokens * slot.rank;
    }
    if (!count) return 0;
    const int64_t outputs = linear.weight.rows, columns = linear.weight.columns;
    const LowRankCall call = {to, from, outputs, columns, outputs, columns, parts, count, threads_};
    return call_.kernels.low_rank(&call);
  }

  // What `packed_linear` of packed_linear.h asks of products that share a pass.
  static bool alike(const StepLinear &a, const StepLinear &b) {
    if (a.plain || b.plain) return a.plain && b.plain;
    return a.weight.bits == b.weight.bits && (a.weight.minimums == nullptr) == (b.weight.minimums == nullptr);
  }

  void rotate(bfloat16 *x, const float *cos, const float *sin, int64_t heads) {
    call_.kernels.rotate(x, heads * head_, head_, cos, sin, call_.tokens, heads, head_ / 2,
                         threads_for(call_.tokens * heads * head_));
  }

  void write(const bfloat16 *rows, bfloat16 *cache) {
    const int64_t row = kv_heads_ * head_;
    for (int64_t token = 0; token < call_.tokens; ++token)
      memcpy(cache + call_.slots[token] * row, rows + token * row, row * sizeof(bfloat16));
  }

  // The result takes the queries' memory.
  void attend(const StepLayer &layer, int64_t numbers) {
    int64_t at = 0;
    for (; at + LANES <= numbers; at += LANES) store(wide_queries_ + at, load(queries_ + at));
    if (at < numbers) store_part(wide_queries_ + at, load_part(queries_ + at, numbers - at), numbers - at);
    PagedCall attention = call_.attention;
    attention.queries = wide_queries_, attention.out = wide_out_;
    attention.keys = layer.keys, attention.values = layer.values;
    call_.kernels.attention(&attention, call_.stored, threads_);
    for (at = 0; at + LANES <= numbers; at += LANES) store(queries_ + at, load(wide_out_ + at));
    if (at < numbers) store_part(queries_ + at, load_part(wide_out_ + at, numbers - at), numbers - at);
  }

  void add(int64_t numbers) {
    bfloat16 *to = call_.hidden;
    int64_t at = 0;
    for (; at + LANES <= numbers; at += LANES) store(to + at, load(to + at) + load(added_ + at));
    if (at < numbers) {
      const Floats sum = load_part(to + at, numbers - at) + load_part(added_ + at, numbers - at);
      store_part(to + at, sum, numbers - at);
    }
  }

  const StepCall &call_;
  const int64_t heads_, kv_heads_, head_;
  int64_t threads_ = 1;
  char *memory_;
  bfloat16 *normed_, *added_, *queries_, *keys_, *values_, *gate_, *up_, *logits_;
  Likeliest *found_;
  float *wide_queries_, *wide_out_;
};

inline int decoder_step(const StepCall &call) {
  Step step(call);
  struct Work {
    Step *step;
    int failed;
  } work = {&step, 0};
  tessera_with_team(
      static_cast<int>(call.threads),
      [](void *data) {
        Work &work = *static_cast<Work *>(data);
        work.failed = work.step->run();
      },
      &work);
  return work.failed;
}

} // namespace
