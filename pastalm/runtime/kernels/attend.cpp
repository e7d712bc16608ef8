// Attention of a few queries over the slots of the cache, read where they lie.
//
// A decode step asks for one query a thread of an answer: little arithmetic, thirty times a step or more. What counts is
// that a layer is one call, which writes the new keys and values into their slots, reads the slots that a query sees and
// no others, and copies nothing.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "vectors.h"

namespace {

using namespace pastalm;
using at::Tensor;
using Slots = std::vector<int32_t>;

constexpr int TOGETHER = 4;      // query heads that read a key at once
constexpr int64_t GRAIN = 1024;  // keys that are worth a thread of the processor

// A key head's part of a layer: key (or value) ``slot`` begins ``slot * step`` numbers behind ``numbers``.
template <class T>
struct Head {
  const T* numbers;
  int64_t step, width;
  const T* at(int64_t slot) const { return numbers + slot * step; }
};

// The scores of H query heads, ``stride`` apart, for some slots.
template <class T, int H>
void score(const float* query, const Head<T>& keys, const Slots& slots, float* scores, int64_t stride) {
  for (size_t s = 0; s < slots.size(); s++) {
    const T* key = keys.at(slots[s]);
    Floats sums[H] = {};
    for (int64_t i = 0; i < keys.width; i += LANES) {
      Floats read = numbers(key + i);
#pragma GCC unroll 4
      for (int h = 0; h < H; h++) sums[h] += read * load<Floats>(query + h * keys.width + i);
    }
    for (int h = 0; h < H; h++) scores[h * stride + s] = total(sums[h]);
  }
}

// Scores become weights that add up to one; ``stride`` is a whole number of vectors.
void soften(float* scores, int64_t number, int64_t stride) {
  float most = *std::max_element(scores, scores + number);
  std::fill(scores + number, scores + stride, -INFINITY);
  Floats sums = {};
  for (int64_t i = 0; i < stride; i += LANES) {
    Floats weights = exponential(load<Floats>(scores + i) - most);
    std::memcpy(scores + i, &weights, sizeof weights);
    sums += weights;
  }
  float sum = total(sums);
  for (int64_t i = 0; i < number; i++) scores[i] /= sum;
}

// What H query heads take from the values of some slots.
template <class T, int H>
void take(const float* weights, int64_t stride, const Head<T>& values, const Slots& slots, float* out) {
  for (int64_t i = 0; i < values.width; i += LANES) {
    Floats sums[H] = {};
    for (size_t s = 0; s < slots.size(); s++) {
      Floats read = numbers(values.at(slots[s]) + i);
#pragma GCC unroll 4
      for (int h = 0; h < H; h++) sums[h] += read * weights[h * stride + s];
    }
    for (int h = 0; h < H; h++) std::memcpy(out + h * values.width + i, &sums[h], sizeof sums[h]);
  }
}

// The ``group`` query heads of a key head, H at once.
template <class T, int H = TOGETHER>
void attend_head(int64_t group, const float* query, const Head<T>& keys, const Head<T>& values, const Slots& slots,
                 float* out) {
  static thread_local std::vector<float> scores;
  int64_t number = slots.size(), stride = (number + LANES - 1) / LANES * LANES;
  if ((int64_t)scores.size() < H * stride) scores.resize(H * stride);
  for (; group >= H; group -= H, query += H * keys.width, out += H * values.width) {
    score<T, H>(query, keys, slots, scores.data(), stride);
    for (int h = 0; h < H; h++) soften(scores.data() + h * stride, number, stride);
    take<T, H>(scores.data(), stride, values, slots, out);
  }
  if constexpr (H > 1)
    if (group > 0) attend_head<T, H - 1>(group, query, keys, values, slots, out);
}

// New keys (or values) [1, heads, N, width] go into their slots of the cache [rows, slots, heads, width].
template <class T>
void write(const Tensor& given, Tensor& cache, const int64_t* slots) {
  Tensor made = given.stride(3) == 1 ? given : given.contiguous();
  int64_t heads = made.size(1), width = made.size(3);
  T* to = cache.mutable_data_ptr<T>();
  const T* from = made.const_data_ptr<T>();
  for (int64_t n = 0; n < made.size(2); n++)
    for (int64_t head = 0; head < heads; head++)
      std::copy_n(from + head * made.stride(1) + n * made.stride(2), width, to + (slots[n] * heads + head) * width);
}

// The slots that a place sees, of ``number``.
void seen(const bool* visible, int64_t number, Slots& slots) {
  slots.clear();
  for (int64_t slot = 0; slot < number; slot++)
    if (visible[slot]) slots.push_back(slot);
}

// One query: ``query`` its first head, heads ``apart``; ``out`` all its heads; the keys and values of one row.
template <class T>
void attend_query(const T* query, int64_t apart, int64_t group, int64_t shared, const Head<T>& keys,
                  const Head<T>& values, const Slots& slots, float scaling, T* out) {
  static thread_local std::vector<float> given, taken;
  given.resize(group * keys.width), taken.resize(group * values.width);
  for (int64_t head = 0; head < shared; head++) {
    for (int64_t h = 0; h < group; h++)
      for (int64_t i = 0; i < keys.width; i++)
        given[h * keys.width + i] = scaling * (float)query[(head * group + h) * apart + i];
    Head<T> key{keys.numbers + head * keys.width, keys.step, keys.width};
    Head<T> value{values.numbers + head * values.width, values.step, values.width};
    attend_head<T>(group, given.data(), key, value, slots, taken.data());
    std::copy_n(taken.data(), group * values.width, out + head * group * values.width);
  }
}

template <class T>
Tensor attend(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& places, const Tensor& read,
              const Tensor& visible, double scaling) {
  int64_t heads = query.size(1), number = query.size(2), shared = keys.size(2), slots = visible.size(3);
  int64_t width = keys.size(3), wide = values.size(3), row = keys.size(1) * shared;
  Tensor found = at::empty({1, number, heads, wide}, query.options());
  auto *place = places.const_data_ptr<int64_t>(), *rows = read.const_data_ptr<int64_t>();
  auto* mask = visible.const_data_ptr<bool>();
  auto *from = query.const_data_ptr<T>(), *key = keys.const_data_ptr<T>(), *value = values.const_data_ptr<T>();
  T* to = found.mutable_data_ptr<T>();
  int64_t grain = std::max<int64_t>(1, GRAIN / (slots * shared));
  at::parallel_for(0, number, grain, [&](int64_t begin, int64_t end) {
    static thread_local Slots found_slots;
    for (int64_t n = begin; n < end; n++) {
      seen(mask + place[n] * slots, slots, found_slots);
      int64_t first = rows[place[n] / visible.size(2)] * row;
      Head<T> all_keys{key + first * width, shared * width, width}, all_values{value + first * wide, shared * wide, wide};
      attend_query<T>(from + n * query.stride(2), query.stride(1), heads / shared, shared, all_keys, all_values,
                      found_slots, scaling, to + n * heads * wide);
    }
  });
  return found;
}

// A layer of a step: ``query`` [1, H, N, width]; ``key``, ``value`` [1, shared, N, width] go into the ``slots`` [N] of the
// cache, ``keys`` and ``values`` [rows, slots, shared, width]. Query n stands in ``places`` [N] of the places of
// ``visible`` bool [L, 1, Q, S], whose rows of the cache are ``read`` [L]. Returns [1, N, H, width].
Tensor attend_few(const Tensor& query, const Tensor& key, const Tensor& value, Tensor keys, Tensor values,
                  const Tensor& slots, const Tensor& places, const Tensor& read, const Tensor& visible, double scaling) {
  auto kind = query.scalar_type();
  TORCH_CHECK((kind == at::kFloat || kind == at::kBFloat16) && keys.scalar_type() == kind && key.scalar_type() == kind,
              "Attention in ", kind, " over keys in ", keys.scalar_type());
  bool whole = keys.size(3) % LANES == 0 && values.size(3) % LANES == 0;
  TORCH_CHECK(whole && keys.is_contiguous() && values.is_contiguous() && visible.is_contiguous(), "Keys of ",
              keys.sizes(), " and values of ", values.sizes());
  Tensor asked = query.stride(3) == 1 ? query : query.contiguous();
  auto run = [&](auto number) {
    using T = decltype(number);
    write<T>(key, keys, slots.const_data_ptr<int64_t>());
    write<T>(value, values, slots.const_data_ptr<int64_t>());
    return attend<T>(asked, keys, values, places, read, visible, scaling);
  };
  return kind == at::kFloat ? run(float{}) : run(c10::BFloat16{});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pastalm, library) {
  library.def(
      "attend_few(Tensor query, Tensor key, Tensor value, Tensor(a!) keys, Tensor(b!) values, Tensor slots, "
      "Tensor places, Tensor read, Tensor visible, float scaling) -> Tensor");
}

TORCH_LIBRARY_IMPL(pastalm, CPU, library) { library.impl("attend_few", &attend_few); }
