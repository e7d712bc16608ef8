// Products of a few rows of inputs with large weights, at the speed at which a processor reads the weights.
//
// A decode step multiplies one row a thread of an answer with every weight of the model. Its time is that of reading the
// weights once, if they are read with few instructions and ahead of their use. The processor's own prefetching gives up
// at the short rows of small models: asking for the next block of outputs while this one is multiplied doubles the speed.
//
// Weights are float32, bfloat16, or int8 with a scale for each output.

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "tiles.h"
#include "vectors.h"

namespace {

using namespace pastalm;
using at::Tensor;
using at::TensorList;

constexpr int MOST = 8;            // rows that are multiplied without a matrix unit; more go another way
constexpr int TRANSPOSED = 32;     // up to so many rows, torch is faster with the weight as the left factor
constexpr int64_t GRAIN = 1 << 16; // weights that are worth a thread of the processor

// One weight of a product: its outputs begin at ``first`` of a row of the result.
struct Weight {
  const void* numbers;
  const float* scale;
  int64_t size, first;
};

// O outputs of R rows of inputs.
template <class W, int R, int O>
inline void outputs(const float* x, const W* weight, const float* scale, float* y, int64_t inputs, int64_t row) {
  Floats sums[O][R] = {};
  for (int64_t i = 0; i < inputs; i += LANES) {
    Floats given[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) given[r] = load<Floats>(x + r * inputs + i);
#pragma GCC unroll 4
    for (int o = 0; o < O; o++) {
      __builtin_prefetch(weight + (o + O) * inputs + i);
      Floats read = numbers(weight + o * inputs + i);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) sums[o][r] += read * given[r];
    }
  }
  for (int o = 0; o < O; o++)
    for (int r = 0; r < R; r++) y[r * row + o] = total(sums[o][r]) * (scale ? scale[o] : 1.f);
}

// The outputs from ``begin`` to ``end`` of one weight.
template <class W, int R>
void span(const float* x, const Weight& weight, float* y, int64_t inputs, int64_t row, int64_t begin, int64_t end) {
  constexpr int O = R <= 4 ? 4 : 2;
  auto* numbers = static_cast<const W*>(weight.numbers);
  auto from = [&](int64_t o, auto outputs) {
    outputs(x, numbers + o * inputs, weight.scale ? weight.scale + o : nullptr, y + weight.first + o, inputs, row);
  };
  int64_t o = begin;
  for (; o + O <= end; o += O) from(o, outputs<W, R, O>);
  for (; o < end; o++) from(o, outputs<W, R, 1>);
}

// All weights, whole units of outputs shared among the threads of the processor: ``part(weight, begin, end)``.
template <class Part>
void shared_out(const std::vector<Weight>& weights, int64_t inputs, int64_t row, int64_t unit, Part part) {
  int64_t grain = std::max<int64_t>(1, GRAIN / (inputs * unit));
  at::parallel_for(0, (row + unit - 1) / unit, grain, [&](int64_t begin, int64_t end) {
    for (auto& one : weights) {
      int64_t from = std::max(begin * unit, one.first), to = std::min(end * unit, one.first + one.size);
      if (from < to) part(one, from - one.first, to - one.first);
    }
  });
}

template <class W, int R>
void product(const float* x, const std::vector<Weight>& weights, float* y, int64_t inputs, int64_t row) {
  shared_out(weights, inputs, row, 4, [&](const Weight& one, int64_t begin, int64_t end) {
    span<W, R>(x, one, y, inputs, row, begin, end);
  });
}

template <class W, int R = 1>
void rows(int64_t number, const float* x, const std::vector<Weight>& weights, float* y, int64_t inputs, int64_t row) {
  if (number == R) return product<W, R>(x, weights, y, inputs, row);
  if constexpr (R < MOST) rows<W, R + 1>(number, x, weights, y, inputs, row);
}

#ifdef PASTALM_TILES
template <class W, bool WIDE>
void product_in_tiles(const uint32_t* pairs, const std::vector<Weight>& weights, float* y, int64_t number,
                      int64_t inputs, int64_t row) {
  shared_out(weights, inputs, row, 2 * SIDE, [&](const Weight& one, int64_t o, int64_t end) {
    Tiles tiles;
    auto from = [&](auto tiled) {
      auto* numbers = static_cast<const W*>(one.numbers) + o * inputs;
      tiled(pairs, numbers, one.scale ? one.scale + o : nullptr, y + one.first + o, number, inputs, row);
    };
    for (; o + 2 * SIDE <= end; o += 2 * SIDE) from(tiled<W, true, WIDE>);
    if (o < end) from(tiled<W, false, WIDE>);
  });
}

template <class W>
void rows_in_tiles(const Tensor& x, const std::vector<Weight>& weights, float* y, int64_t row) {
  int64_t number = x.size(0), inputs = x.size(1), columns = number > SIDE ? TILED_ROWS : SIDE;
  Tensor given = x.contiguous();
  auto* pairs = reinterpret_cast<uint32_t*>(room(inputs / 2 * columns, 0));
  in_pairs(given.const_data_ptr<c10::BFloat16>(), number, inputs, columns, pairs);
  auto* multiply = number > SIDE ? &product_in_tiles<W, true> : &product_in_tiles<W, false>;
  multiply(pairs, weights, y, number, inputs, row);
}

// Whether the matrix unit multiplies so many rows.
bool in_tiles(const Tensor& x, TensorList weights) {
  bool whole = x.size(1) % DEPTH == 0;
  for (auto& weight : weights) whole = whole && weight.size(0) % SIDE == 0;
  bool narrow = x.scalar_type() == at::kBFloat16 && weights[0].scalar_type() != at::kFloat;
  return x.size(0) > 1 && x.size(0) <= TILED_ROWS && whole && narrow && tiles_allowed();
}
#else
template <class W>
void rows_in_tiles(const Tensor&, const std::vector<Weight>&, float*, int64_t) {}
bool in_tiles(const Tensor&, TensorList) { return false; }
#endif

// Whether these kernels multiply so many rows.
bool is_few(const Tensor& x, TensorList weights) {
  return (x.size(0) > 0 && x.size(0) <= MOST && x.size(1) % LANES == 0) || in_tiles(x, weights);
}

// All weights for a few rows, into y [N, row].
template <class W>
void multiply(const Tensor& x, TensorList weights, TensorList scales, float* y, int64_t row) {
  std::vector<Weight> all;
  int64_t first = 0;
  for (size_t i = 0; i < weights.size(); first += weights[i++].size(0)) {
    const float* scale = scales.empty() ? nullptr : scales[i].const_data_ptr<float>();
    all.push_back({weights[i].const_data_ptr(), scale, weights[i].size(0), first});
  }
  if constexpr (!std::is_same_v<W, float>)
    if (in_tiles(x, weights)) return rows_in_tiles<W>(x, all, y, row);
  rows<W>(x.size(0), as_floats(x), all, y, x.size(1), row);
}

Tensor few(const Tensor& x, TensorList weights, TensorList scales, int64_t row) {
  Tensor found = at::empty({x.size(0), row}, x.options());
  auto kind = weights[0].scalar_type();
  auto* by = kind == at::kChar ? &multiply<int8_t> : kind == at::kBFloat16 ? &multiply<c10::BFloat16> : &multiply<float>;
  float* y = to_fill(found);
  by(x, weights, scales, y, row);
  fill(found, y);
  return found;
}

// More rows, by torch.
Tensor one(const Tensor& x, const Tensor& many) {
  return x.size(0) <= TRANSPOSED ? at::mm(many, x.t()).t().contiguous() : at::linear(x, many);
}

// x [N, inputs] by weights [size, inputs] of one type, side by side: [N, their sizes in all]. Few rows are multiplied
// with them as they are, by ``scales`` [size] if there are any; ``many`` [size, inputs] each, of the type of x, is what
// more rows are multiplied with.
Tensor linears(const Tensor& x, TensorList weights, TensorList scales, TensorList many) {
  int64_t row = 0;
  for (size_t i = 0; i < weights.size(); row += weights[i++].size(0))
    TORCH_CHECK(x.dim() == 2 && weights[i].is_contiguous() && many[i].is_contiguous() && x.size(1) == many[i].size(1) &&
                    weights[i].scalar_type() == weights[0].scalar_type(),
                "A product of ", x.sizes(), " with a weight of ", many[i].sizes(), " in ", weights[i].sizes());
  if (is_few(x, weights)) return few(x, weights, scales, row);
  std::vector<Tensor> found;
  for (auto& weight : many) found.push_back(one(x, weight));
  return found.size() == 1 ? found[0] : at::cat(found, 1);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pastalm, library) {
  library.def("linears(Tensor x, Tensor[] weights, Tensor[] scales, Tensor[] many) -> Tensor");
}

TORCH_LIBRARY_IMPL(pastalm, CPU, library) { library.impl("linears", &linears); }
