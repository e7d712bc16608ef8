// Attention of a few queries over the slots of the cache, read where they lie.
//
// A decode step asks for one query a thread of an answer: little arithmetic, thirty times a step or more. What counts is
// that a layer is one call, which writes the new keys and values into their slots, reads the slots that a query sees and
// no others, and copies nothing.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "attend_tiles.h"
#include "heads.h"
#include "vectors.h"

namespace {

using namespace pastalm;
using at::Tensor;
using Slots = std::vector<int32_t>;

constexpr int TOGETHER = 4;      // query heads that read a key at once
constexpr int64_t SLOTS = 16;    // whose values are added up in registers before the sums are stored
constexpr int64_t GRAIN = 1024;  // keys, counted for each key head, that are worth a thread of the processor

// ``run(first, H)`` for the ``group`` query heads of a key head, H of them from ``first`` on.
template <int H = TOGETHER, class Run>
inline void by_heads(int64_t group, const Run& run, int64_t first = 0) {
  for (; group - first >= H; first += H) run(first, std::integral_constant<int, H>{});
  if constexpr (H > 1)
    if (group > first) by_heads<H - 1>(group, run, first);
}

// The scores of H query heads for a key, ``stride`` apart.
template <class T, int H>
inline void score(const float* query, const T* key, int64_t width, float* scores, int64_t stride) {
  Floats sums[H] = {};
  for (int64_t i = 0; i < width; i += LANES) {
    Floats read = numbers(key + i);
#pragma GCC unroll 4
    for (int h = 0; h < H; h++) sums[h] = fused(read, load<Floats>(query + h * width + i), sums[h]);
  }
  for (int h = 0; h < H; h++) scores[h * stride] = total(sums[h]);
}

// Scores become weights that add up to one, if there are any; ``stride`` is a whole number of vectors.
void soften(float* scores, int64_t number, int64_t stride) {
  if (number == 0) return;
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

// Adds what H query heads take from the values of ``number`` slots.
template <class T, int H>
inline void take(const float* weights, int64_t stride, const Head<T>& values, const int32_t* slots, int64_t number,
                 float* out) {
  for (int64_t i = 0; i < values.width; i += LANES) {
    Floats sums[H];
    for (int h = 0; h < H; h++) sums[h] = load<Floats>(out + h * values.width + i);
    for (int64_t s = 0; s < number; s++) {
      Floats read = numbers(values.at(slots[s]) + i);
#pragma GCC unroll 4
      for (int h = 0; h < H; h++) sums[h] = fused(read, weights[h * stride + s] - Floats{}, sums[h]);
    }
    for (int h = 0; h < H; h++) std::memcpy(out + h * values.width + i, &sums[h], sizeof sums[h]);
  }
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

// A layer of a step, once its keys and values are written: what ``attend_few`` takes.
template <class T>
struct Layer {
  const Tensor &query, &keys, &values, &places, &read, &visible;
  const float scaling;
  Tensor found = at::empty({1, query.size(2), query.size(1), values.size(3)}, query.options());

  const int64_t number = query.size(2), heads = query.size(1), shared = keys.size(2), group = heads / shared;
  const int64_t slots = visible.size(3), width = keys.size(3), wide = values.size(3);
  const int64_t *const place = places.const_data_ptr<int64_t>(), *const rows = read.const_data_ptr<int64_t>();
  const T *const asking = query.const_data_ptr<T>(), *const key = keys.const_data_ptr<T>();
  const T* const value = values.const_data_ptr<T>();
  const bool* const mask = visible.const_data_ptr<bool>();
  T* const results = found.mutable_data_ptr<T>();

  // Of query n: the place of its sequence among those that attend, what it sees, its head, and where the result goes.
  int64_t sequence(int64_t n) const { return place[n] / visible.size(2); }
  const bool* seen(int64_t n) const { return mask + place[n] * slots; }
  const T* asked(int64_t n, int64_t head) const { return asking + n * query.stride(2) + head * query.stride(1); }
  T* result(int64_t n, int64_t head) const { return results + (n * heads + head) * wide; }

  // A key head of a sequence; the next ones lie behind it.
  Head<T> keys_of(int64_t sequence, int64_t head) const {
    return {key + (rows[sequence] * keys.size(1) * shared + head) * width, shared * width, width};
  }
  Head<T> values_of(int64_t sequence, int64_t head) const {
    return {value + (rows[sequence] * keys.size(1) * shared + head) * wide, shared * wide, wide};
  }
};

// A query, by its heads from ``first`` on, before ``end``. The keys of a slot are read for all of them before the next
// slot's: as they lie.
template <class T>
void attend_query(const Layer<T>& layer, int64_t n, int64_t first, int64_t end) {
  static thread_local std::vector<float> asked, scores, taken;
  static thread_local Slots slots;
  slots.clear();
  for (int64_t slot = 0; slot < layer.slots; slot++)
    if (layer.seen(n)[slot]) slots.push_back(slot);
  int64_t number = slots.size(), stride = whole(number, LANES), heads = end - first;
  asked.resize(heads * layer.width), scores.resize(heads * stride), taken.assign(heads * layer.wide, 0.f);
  for (int64_t head = 0; head < heads; head++)
    for (int64_t i = 0; i < layer.width; i++)
      asked[head * layer.width + i] = layer.scaling * (float)layer.asked(n, first + head)[i];
  auto each = [&](auto run) {  // ``head`` counts from the first on
    for (int64_t from = first, to; from < end; from = to) {
      int64_t shared = from / layer.group;
      to = std::min(end, (shared + 1) * layer.group);
      by_heads(to - from, [&](int64_t head, auto some) { run(shared, from - first + head, some); });
    }
  };
  auto keys = layer.keys_of(layer.sequence(n), 0), values = layer.values_of(layer.sequence(n), 0);
  for (int64_t s = 0; s < number; s++)
    each([&](int64_t shared, int64_t head, auto some) {
      const T* key = keys.at(slots[s]) + shared * layer.width;
      score<T, some()>(&asked[head * layer.width], key, layer.width, &scores[head * stride + s], stride);
    });
  for (int64_t head = 0; head < heads; head++) soften(scores.data() + head * stride, number, stride);
  for (int64_t s = 0; s < number; s += SLOTS)
    each([&](int64_t shared, int64_t head, auto some) {
      Head<T> own{values.numbers + shared * layer.wide, values.step, values.width};
      int64_t few = std::min(SLOTS, number - s);
      take<T, some()>(&scores[head * stride + s], stride, own, &slots[s], few, &taken[head * layer.wide]);
    });
  std::copy_n(taken.data(), taken.size(), layer.result(n, first));
}

template <class T>
void by_queries(const Layer<T>& layer) {
  // Fewer queries than threads: each in parts of its heads.
  int64_t number = std::max<int64_t>(1, layer.number);
  int64_t parts = std::min(layer.heads, whole(at::get_num_threads(), number) / number);
  int64_t grain = std::max<int64_t>(1, GRAIN * parts / std::max<int64_t>(1, layer.slots * layer.shared));
  at::parallel_for(0, layer.number * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      int64_t part = task % parts;
      attend_query(layer, task / parts, layer.heads * part / parts, layer.heads * (part + 1) / parts);
    }
  });
}

#ifdef PASTALM_TILES
// Up to sixteen query heads of a key head, from query ``first`` on, whose queries end before ``end``.
struct Task {
  int64_t head, first, end;
};

std::vector<Task> tasks(const Layer<BFloat>& layer) {
  std::vector<Task> found;
  int64_t together = std::max<int64_t>(1, SIDE / layer.group), end;
  for (int64_t head = 0; head < layer.shared; head++)
    for (int64_t first = 0; first < layer.number; first = end) {
      for (end = first; end < std::min(layer.number, first + together); end++)
        if (layer.sequence(end) != layer.sequence(first)) break;
      found.push_back({head, first, end});
    }
  return found;
}

void attend_task(const Layer<BFloat>& layer, const Task& task) {
  static thread_local TiledAttention attention;
  Rows rows;
  for (int64_t n = task.first; n < task.end; n++)
    for (int64_t h = task.head * layer.group; h < (task.head + 1) * layer.group; h++)
      rows.add(layer.asked(n, h), layer.seen(n), layer.result(n, h));
  auto keys = layer.keys_of(layer.sequence(task.first), task.head);
  auto values = layer.values_of(layer.sequence(task.first), task.head);
  attention.attend(rows, keys, values, layer.slots, layer.scaling);
}

void by_tiles(const Layer<BFloat>& layer) {
  auto all = tasks(layer);
  int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, layer.slots));
  at::parallel_for(0, all.size(), grain, [&](int64_t begin, int64_t end) {
    Tiles tiles;
    for (int64_t task = begin; task < end; task++) attend_task(layer, all[task]);
  });
}
#endif

// Whether the matrix unit attends for a query, a key and a value as ``attend_few`` takes them.
bool attends_in_tiles(const Tensor& query, const Tensor& key, const Tensor& value) {
#ifdef PASTALM_TILES
  bool fit = key.size(3) % DEPTH == 0 && value.size(3) % DEPTH == 0 && query.size(1) <= SIDE * key.size(1);
  return fit && query.scalar_type() == at::kBFloat16 && tiles_allowed();
#else
  return false;
#endif
}

// Raises an error unless what ``attend_few`` takes fits together.
void require_fit(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& keys, const Tensor& values,
                 const Tensor& slots, const Tensor& places, const Tensor& read, const Tensor& visible) {
  auto kind = query.scalar_type();
  TORCH_CHECK((kind == at::kFloat || kind == at::kBFloat16) && keys.scalar_type() == kind && key.scalar_type() == kind,
              "Attention in ", kind, " over keys in ", keys.scalar_type());
  for (const Tensor* one : {&query, &key, &value, &keys, &values, &visible})
    TORCH_CHECK(one->dim() == 4, "Attention to ", one->sizes(), ", which has not four dimensions");
  bool divides = keys.size(3) % LANES == 0 && values.size(3) % LANES == 0 && visible.size(3) % CHUNK == 0;
  bool lies = keys.is_contiguous() && values.is_contiguous() && visible.is_contiguous() && slots.is_contiguous() &&
              places.is_contiguous() && read.is_contiguous();
  TORCH_CHECK(divides && lies && visible.size(3) <= keys.size(1), "Keys of ", keys.sizes(), " and values of ",
              values.sizes(), ", seen as ", visible.sizes(), " says");
  int64_t heads = keys.size(2), number = query.size(2);
  auto suits = [&](const Tensor& made, const Tensor& kept) {
    return made.size(1) == kept.size(2) && made.size(2) == number && made.size(3) == kept.size(3);
  };
  bool fit = suits(key, keys) && suits(value, values) && values.size(2) == heads && values.size(1) == keys.size(1) &&
             query.size(3) == keys.size(3) && heads > 0 && query.size(1) % heads == 0;
  TORCH_CHECK(fit && slots.numel() == number && places.numel() == number, "Queries of ", query.sizes(), ", keys of ",
              key.sizes(), " and values of ", value.sizes(), ", with ", slots.numel(), " slots and ", places.numel(),
              " places, for keys of ", keys.sizes(), " and values of ", values.sizes());
}

// A layer of a step: ``query`` [1, H, N, width]; ``key``, ``value`` [1, shared, N, width] go into the ``slots`` [N] of the
// cache, ``keys`` and ``values`` [rows, slots, shared, width]. Query n stands in ``places`` [N] of the places of
// ``visible`` bool [L, 1, Q, S], whose rows of the cache are ``read`` [L]. Returns [1, N, H, width].
Tensor attend_few(const Tensor& query, const Tensor& key, const Tensor& value, Tensor keys, Tensor values,
                  const Tensor& slots, const Tensor& places, const Tensor& read, const Tensor& visible, double scaling) {
  require_fit(query, key, value, keys, values, slots, places, read, visible);
  Tensor asked = query.stride(3) == 1 ? query : query.contiguous();
  auto run = [&](auto number) {
    using T = decltype(number);
    write<T>(key, keys, slots.const_data_ptr<int64_t>());
    write<T>(value, values, slots.const_data_ptr<int64_t>());
    Layer<T> layer{asked, keys, values, places, read, visible, (float)scaling};
#ifdef PASTALM_TILES
    if constexpr (std::is_same_v<T, BFloat>)
      if (attends_in_tiles(query, key, value)) return by_tiles(layer), layer.found;
#endif
    return by_queries(layer), layer.found;
  };
  return query.scalar_type() == at::kFloat ? run(float{}) : run(BFloat{});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pastalm, library) {
  library.def(
      "attend_few(Tensor query, Tensor key, Tensor value, Tensor(a!) keys, Tensor(b!) values, Tensor slots, "
      "Tensor places, Tensor read, Tensor visible, float scaling) -> Tensor");
  library.def("attends_in_tiles(Tensor query, Tensor key, Tensor value) -> bool", &attends_in_tiles);
}

TORCH_LIBRARY_IMPL(pastalm, CPU, library) { library.impl("attend_few", &attend_few); }
