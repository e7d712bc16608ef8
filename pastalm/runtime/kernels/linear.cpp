// Products of rows of inputs with large weights: of a few rows, at the speed at which a processor reads the weights.
//
// A decode step multiplies one row a thread of an answer with every weight of the model. Its time is that of reading the
// weights once, if they are read with few instructions and ahead of their use. The processor's own prefetching gives up
// at the short rows of small models: asking for the next block of outputs while this one is multiplied doubles the speed.
//
// Many rows of float32, as a batch has them, lie side by side in vectors: a weight that is loaded is used for all.
//
// Weights are float32 or bfloat16 as torch has them, or int8 with a scale for each output, as int8.h has them.

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "int8.h"
#include "tiles.h"
#include "vectors.h"

namespace {

using namespace pastalm;
using at::Tensor;
using at::TensorList;

constexpr int MOST = 8;                      // rows whose products are summed along the inputs
constexpr int FLOAT_ROWS = 128;              // of float32, of which vectors hold one input of many; torch takes more rows
constexpr int SUMS = LANES == 16 ? 24 : 12;  // vectors of sums that registers hold beside what is multiplied
constexpr int LINE = 16;                     // numbers of a line of the cache
constexpr int TRANSPOSED = 32;               // up to so many rows, torch is faster with the weight as the left factor
constexpr int INPUTS = 16;                   // a plain weight has whole multiples of them, so that any vector takes them
constexpr int64_t GRAIN = 1 << 16;           // weights that are worth a thread of the processor, for a few rows
static_assert(OUTPUTS % LANES == 0 && INPUTS % LANES == 0);

// One weight of a product: its outputs begin at ``first`` of a row of the result.
struct Weight {
  const void* numbers;
  const float* scale;
  int64_t size, first;

  // A vector of outputs from ``o`` on, as int8 weights give them, into a row of the result.
  template <class T>
  void put(Floats sums, int64_t o, T* row) const {
    int64_t number = std::min<int64_t>(LANES, size - o);
    Floats scales = {};
    std::memcpy(&scales, scale + o, number * sizeof *scale);
    store(row + first + o, sums * scales, number);
  }
};

// ``number`` rows x of ``inputs`` each by weights whose outputs fill rows of y, ``row`` each.
template <class T>
struct Product {
  const T* x;
  int64_t number, inputs;
  std::vector<Weight> weights;
  T* y;
  int64_t row;
};

// All weights, whole units of outputs shared among the threads of the processor: ``part(weight, begin, end)``.
template <class T, class Part>
void shared_out(const Product<T>& product, int64_t unit, Part part) {
  int64_t work = product.inputs * unit * std::max<int64_t>(1, product.number / MOST);
  int64_t units = 0, grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, work));
  for (auto& weight : product.weights) units += whole(weight.size, unit) / unit;
  at::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // unit of a weight
    for (auto& weight : product.weights) {
      int64_t from = std::max<int64_t>(begin - first, 0) * unit, to = std::min((end - first) * unit, weight.size);
      if (from < to) part(weight, from, to);
      first += whole(weight.size, unit) / unit;
    }
  });
}

// O outputs of R rows.
template <class T, int R, int O>
inline void outputs(const float* x, const T* weight, T* y, int64_t inputs, int64_t row) {
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
    for (int r = 0; r < R; r++) y[r * row + o] = total(sums[o][r]);
}

// How many outputs of so many rows have their sums in registers at once, beside the inputs.
constexpr int together(int rows) {
  if (LANES == 16) return rows <= 4 ? 4 : 2;  // of 32 registers
  return rows <= 2 ? 4 : rows <= 5 ? 2 : 1;   // of 16
}

// R rows by weights as torch has them.
template <int R, class T>
void plain_rows(const Product<T>& product) {
  constexpr int O = together(R);
  int64_t inputs = product.inputs;
  const float* x = as_floats(product.x, R, inputs, inputs);
  shared_out(product, O, [&](const Weight& weight, int64_t o, int64_t end) {
    auto* numbers = static_cast<const T*>(weight.numbers);
    auto from = [&](auto outputs) {
      outputs(x, numbers + o * inputs, product.y + weight.first + o, inputs, product.row);
    };
    for (; o + O <= end; o += O) from(outputs<T, R, O>);
    for (; o < end; o++) from(outputs<T, R, 1>);
  });
}

// O outputs of V vectors of rows: x [inputs, V * LANES]. A vector holds one input of many rows, so nothing is added up
// across it.
template <int V, int O>
inline void vector_outputs(const float* x, const float* weight, float* y, int64_t inputs, int64_t row, int64_t number) {
  Floats sums[O][V] = {};
  for (int64_t i = 0; i < inputs; i++) {
    if (i % LINE == 0)
#pragma GCC unroll 12
      for (int o = 0; o < O; o++) __builtin_prefetch(weight + (o + O) * inputs + i);
    Floats given[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) given[v] = load<Floats>(x + (i * V + v) * LANES);
#pragma GCC unroll 12
    for (int o = 0; o < O; o++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sums[o][v] += given[v] * weight[o * inputs + i];
  }
  float found[O][V * LANES];
  std::memcpy(found, sums, sizeof found);
  for (int64_t r = 0; r < number; r++)
    for (int o = 0; o < O; o++) y[r * row + o] = found[o][r];
}

// ``size`` outputs of V vectors of rows, of which ``number`` are given.
template <int V>
void all_vector_outputs(const float* x, const float* weight, float* y, int64_t inputs, int64_t row, int64_t number,
                        int64_t size) {
  constexpr int O = V == 1 ? 8 : SUMS / V;  // no more lines of weights at once than the nearest cache has ways
  int64_t o = 0;
  for (; o + O <= size; o += O) vector_outputs<V, O>(x, weight + o * inputs, y + o, inputs, row, number);
  for (; o + 4 <= size; o += 4) vector_outputs<V, 4>(x, weight + o * inputs, y + o, inputs, row, number);
  for (; o < size; o++) vector_outputs<V, 1>(x, weight + o * inputs, y + o, inputs, row, number);
}

// Rows [number, inputs] as [inputs, padded], zeros behind the given ones.
void transpose(const float* x, int64_t number, int64_t inputs, int64_t padded, float* found) {
  for (int64_t i = 0; i < inputs; i++)
    for (int64_t r = 0; r < padded; r++) found[i * padded + r] = r < number ? x[r * inputs + i] : 0.f;
}

// Many float32 rows, two vectors of them at a time: a few outputs of all rows before the next.
void many_rows(const Product<float>& product) {
  constexpr int64_t TWO = 2 * LANES;
  int64_t inputs = product.inputs, number = product.number;
  float* x = room(whole(number, LANES) * inputs);
  at::parallel_for(0, whole(number, TWO) / TWO, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin * TWO; r < std::min(end * TWO, number); r += TWO) {
      int64_t few = std::min(TWO, number - r);
      transpose(product.x + r * inputs, few, inputs, whole(few, LANES), x + r * inputs);
    }
  });
  shared_out(product, SUMS, [&](const Weight& weight, int64_t o, int64_t end) {
    for (; o < end; o += SUMS)
      for (int64_t r = 0; r < number; r += TWO) {
        int64_t few = std::min(TWO, number - r), size = std::min<int64_t>(SUMS, end - o);
        auto* run = few > LANES ? all_vector_outputs<2> : all_vector_outputs<1>;
        auto* numbers = static_cast<const float*>(weight.numbers) + o * inputs;
        run(x + r * inputs, numbers, product.y + r * product.row + weight.first + o, inputs, product.row, few, size);
      }
  });
}

// R rows by int8 weights.
template <int R, class T>
void int8_rows(const Product<T>& product) {
  int64_t inputs = whole(product.inputs, DEEP);
  const float* x = as_floats(product.x, R, product.inputs, inputs);
  constexpr int WHOLE = OUTPUTS / LANES, V = R * WHOLE <= MOST ? WHOLE : 1;  // vectors of outputs at once
  shared_out(product, OUTPUTS, [&](const Weight& weight, int64_t o, int64_t end) {
    for (; o < end; o += OUTPUTS)
      for (int64_t first = 0; first < OUTPUTS; first += V * LANES) {
        Floats sums[R][V];
        outputs_of<R, V>(x, inputs, static_cast<const int8_t*>(weight.numbers) + o * inputs + 4 * first, sums);
        for (int v = 0; v < V && o + first + v * LANES < end; v++)
          for (int r = 0; r < R; r++) weight.put(sums[r][v], o + first + v * LANES, product.y + r * product.row);
      }
  });
}

// ``run`` with the number of rows as a constant.
template <int R = 1, class Run>
void with_rows(int64_t number, Run run) {
  if (number == R) return run(std::integral_constant<int, R>{});
  if constexpr (R < MOST) with_rows<R + 1>(number, run);
}

#ifdef PASTALM_TILES
void plain_rows_in_tiles(const Product<BFloat>& product) {
  int64_t number = product.number, inputs = product.inputs, columns = number > SIDE ? TILED_ROWS : SIDE;
  auto* pairs = reinterpret_cast<uint32_t*>(room(inputs / 2 * columns));
  in_pairs(product.x, number, inputs, columns, pairs);
  bool wide = number > SIDE;
  auto *two = wide ? tiled<true, true> : tiled<true, false>, *one = wide ? tiled<false, true> : tiled<false, false>;
  shared_out(product, 2 * SIDE, [&](const Weight& weight, int64_t o, int64_t end) {
    Tiles tiles;
    written();
    auto from = [&](auto tiled) {
      auto* numbers = static_cast<const BFloat*>(weight.numbers) + o * inputs;
      tiled(pairs, numbers, product.y + weight.first + o, number, inputs, product.row);
    };
    for (; o + 2 * SIDE <= end; o += 2 * SIDE) from(two);
    for (; o < end; o += SIDE) {
      o = std::min(o, weight.size - SIDE);  // the last ones together with some that are done already
      from(one);
    }
  });
}

template <class T>
void int8_rows_in_tiles(const Product<T>& product) {
  int64_t inputs = whole(product.inputs, DEEP);
  RoundedRows x(as_floats(product.x, product.number, product.inputs, inputs), product.number, inputs);
  auto* multiply = IN_TILES[(product.number - 1) / PAIRED];
  shared_out(product, OUTPUTS, [&](const Weight& weight, int64_t o, int64_t end) {
    alignas(64) int32_t sums[std::size(IN_TILES)][SIDE][SIDE];
    Tiles tiles;
    written();
    for (; o < end; o += OUTPUTS) {
      multiply(x, static_cast<const int8_t*>(weight.numbers) + o * inputs, sums);
      for (int64_t n = 0; n < product.number; n++) weight.put(of_row(sums, x, n), o, product.y + n * product.row);
    }
  });
}
#endif

// Whether the matrix unit multiplies so many rows.
bool in_tiles(const Tensor& x, TensorList weights) {
#ifdef PASTALM_TILES
  if (x.size(0) > TILED_ROWS || !tiles_allowed()) return false;
  if (weights[0].scalar_type() == at::kChar) return true;
  bool fit = x.size(1) % DEPTH == 0;
  for (auto& weight : weights) fit = fit && weight.size(0) >= SIDE;
  return x.scalar_type() == at::kBFloat16 && x.size(0) > 1 && fit;
#else
  return false;
#endif
}

// Whether we multiply so many rows, and not torch.
bool is_ours(const Tensor& x, TensorList weights) {
  bool fit = weights[0].scalar_type() == at::kChar || x.size(1) % INPUTS == 0;
  bool known = x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat;
  int64_t most = weights[0].scalar_type() == at::kFloat ? FLOAT_ROWS : MOST;
  return x.size(0) > 0 && known && ((x.size(0) <= most && fit) || in_tiles(x, weights));
}

template <class T>
void multiply(const Product<T>& product, bool int8, bool in_tiles) {
#ifdef PASTALM_TILES
  if (in_tiles && int8) return int8_rows_in_tiles(product);
  if constexpr (std::is_same_v<T, BFloat>)
    if (in_tiles) return plain_rows_in_tiles(product);
#endif
  if constexpr (std::is_same_v<T, float>)
    if (product.number > MOST) return many_rows(product);
  with_rows(product.number, [&](auto rows) { int8 ? int8_rows<rows>(product) : plain_rows<rows>(product); });
}

// Rows that are ours by all weights.
template <class T>
Tensor ours(const Tensor& x, TensorList weights, TensorList scales, TensorList many) {
  Tensor given = x.contiguous();
  Product<T> product{given.const_data_ptr<T>(), x.size(0), x.size(1)};
  for (size_t i = 0; i < weights.size(); product.row += many[i++].size(0)) {
    const float* scale = scales.empty() ? nullptr : scales[i].const_data_ptr<float>();
    product.weights.push_back({weights[i].const_data_ptr(), scale, many[i].size(0), product.row});
  }
  Tensor found = at::empty({x.size(0), product.row}, x.options());
  product.y = found.mutable_data_ptr<T>();
  multiply(product, !scales.empty(), in_tiles(x, weights));
  return found;
}

// More rows, by torch.
Tensor one(const Tensor& x, const Tensor& many) {
  return x.size(0) <= TRANSPOSED ? at::mm(many, x.t()).t().contiguous() : at::linear(x, many);
}

Tensor more(const Tensor& x, TensorList many) {
  std::vector<Tensor> found;
  for (auto& weight : many) found.push_back(one(x, weight));
  return found.size() == 1 ? found[0] : at::cat(found, 1);
}

// Whether a weight is the ``same`` as torch has it, in the type of x.
bool is_plain(const Tensor& weight, const Tensor& same, const Tensor& x) {
  return weight.sizes() == same.sizes() && weight.scalar_type() == x.scalar_type() && weight.is_contiguous();
}

// Whether a weight is the ``same`` in int8, as int8.h has it, with a scale for each output.
bool is_packed(const Tensor& weight, const Tensor& scale, const Tensor& same) {
  int64_t blocks = whole(same.size(0), OUTPUTS) / OUTPUTS, deep = whole(same.size(1), DEEP) / DEEP;
  bool lies = weight.sizes() == at::IntArrayRef({blocks, deep, DEEP / 4, OUTPUTS, 4}) && weight.is_contiguous();
  bool scaled = scale.scalar_type() == at::kFloat && scale.numel() == same.size(0) && scale.is_contiguous();
  return weight.scalar_type() == at::kChar && lies && scaled;
}

// x [N, inputs] by weights [size, inputs] of one type, side by side: [N, their sizes in all]. A few rows use ``weights``,
// more use ``many``, each weight in the type of x. ``weights`` are ``many`` itself, or int8 as int8.h has them, with
// ``scales`` [size].
Tensor linears(const Tensor& x, TensorList weights, TensorList scales, TensorList many) {
  size_t number = weights.size();
  TORCH_CHECK(number > 0 && many.size() == number && (scales.empty() || scales.size() == number), "Products with ",
              number, " weights, ", scales.size(), " scales, and ", many.size(), " weights for many rows");
  for (size_t i = 0; i < number; i++) {
    auto &weight = weights[i], &same = many[i];
    bool fits = x.dim() == 2 && same.dim() == 2 && x.size(1) == same.size(1) && same.is_contiguous();
    fits = fits && same.scalar_type() == x.scalar_type();
    TORCH_CHECK(fits && (scales.empty() ? is_plain(weight, same, x) : is_packed(weight, scales[i], same)),
                "A product of ", x.sizes(), " with a weight of ", same.sizes(), " that lies as ", weight.sizes(), " in ",
                weight.scalar_type());
  }
  if (is_ours(x, weights))
    return x.scalar_type() == at::kFloat ? ours<float>(x, weights, scales, many) : ours<BFloat>(x, weights, scales, many);
  // Float32 rows may be too many for int8 weights alone; rows of bfloat16 are then too many for both.
  return is_ours(x, many) ? ours<float>(x, many, {}, many) : more(x, many);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pastalm, library) {
  library.def("linears(Tensor x, Tensor[] weights, Tensor[] scales, Tensor[] many) -> Tensor");
}

TORCH_LIBRARY_IMPL(pastalm, CPU, library) { library.impl("linears", &linears); }
