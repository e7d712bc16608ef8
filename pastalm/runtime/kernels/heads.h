// Where keys and values lie.

#pragma once

#include <cstdint>

namespace pastalm {

constexpr int CHUNK = 32;  // slots come in chunks of so many: BLOCK of pastalm/runtime/kv_cache.py, which it must equal

// A key head's part of a layer: key (or value) ``slot`` begins ``slot * step`` numbers behind ``numbers``.
template <class T>
struct Head {
  const T* numbers;
  int64_t step, width;
  const T* at(int64_t slot) const { return numbers + slot * step; }
};

}  // namespace pastalm
