// What kernels/paged_attention.py passes to attention over the cache; all numbers are 64 bits wide.
#pragma once

#include <cstdint>

namespace {

struct Sequence {
  int64_t start;   // its first row of the queries
  int64_t length;  // its new tokens
  int64_t context; // tokens that it may see, the new ones included
  int64_t table;   // where its blocks begin in `blocks`
  int64_t split;   // tokens of context that one task attends: a multiple of the block
  int64_t task;    // the number of its first task
  int64_t partial; // how many splits times new tokens the sequences before it have
};

struct PagedCall {
  const float *queries; // (T, N, K)
  float *out;           // (T, N, K)
  const void *keys, *values;
  const float *key_scales, *value_scales; // (slots, M); null where keys and values are no codes
  const int32_t *blocks;
  const Sequence *sequences;
  float *partial; // a row for each split, new token and head of a sequence: K sums, then what `State` names
  int64_t num_sequences, num_tasks, heads, kv_heads, width, block_tokens;
  double scale; // of scores, log2(e) included
};

} // namespace
