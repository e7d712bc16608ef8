// Products of a few rows of inputs with a large weight, at the speed at which a processor reads the weight.
//
// A decode step multiplies one row a thread of an answer with every weight of the model. Its time is that of reading the
// weights once, if they are read with few instructions and ahead of their use. The processor's own prefetching gives up
// at the short rows of small models: asking for the next block of outputs while this one is multiplied doubles the speed.
//
// Weights are float32, bfloat16, or int8 with a scale for each output. Sums are float32.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;          // numbers multiplied at once
constexpr int MOST = 8;            // rows that these kernels multiply; more go another way
constexpr int TRANSPOSED = 32;     // up to so many rows, torch is faster with the weight as the left factor
constexpr int64_t GRAIN = 1 << 16; // weights that are worth a thread of the processor

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef int16_t Shorts __attribute__((vector_size(LANES * 2)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

template <class V, class T>
inline V load(const T* from) {
  V found;
  std::memcpy(&found, from, sizeof found);
  return found;
}

inline float total(Floats lanes) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)lanes);
#else
  float parts[LANES];
  std::memcpy(parts, &lanes, sizeof parts);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
#endif
}

// How each kind of weight is read.

inline Floats numbers(const float* from) { return load<Floats>(from); }

inline Floats numbers(const c10::BFloat16* from) {
  Words bits = __builtin_convertvector(load<Halves>(from), Words) << 16;
  return load<Floats>(&bits);
}

inline Floats numbers(const int8_t* from) {
#ifdef __AVX512F__
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from)));
#else
  Shorts wider = __builtin_convertvector(load<Bytes>(from), Shorts);
  return __builtin_convertvector(__builtin_convertvector(wider, Ints), Floats);
#endif
}

// O outputs of R rows of inputs.
template <class W, int R, int O>
inline void outputs(const float* x, const W* weight, const float* scale, float* y, int64_t inputs, int64_t size) {
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
    for (int r = 0; r < R; r++) y[r * size + o] = total(sums[o][r]) * (scale ? scale[o] : 1.f);
}

template <class W, int R>
void product(const float* x, const W* weight, const float* scale, float* y, int64_t inputs, int64_t size) {
  constexpr int O = R <= 4 ? 4 : 2;
  auto from = [&](int64_t o, auto outputs) { outputs(x, weight + o * inputs, scale ? scale + o : nullptr, y + o, inputs, size); };
  int64_t blocks = size / O;
  at::parallel_for(0, blocks, std::max<int64_t>(1, GRAIN / (inputs * O)), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) from(block * O, outputs<W, R, O>);
  });
  for (int64_t o = blocks * O; o < size; o++) from(o, outputs<W, R, 1>);
}

template <class W, int R = 1>
void rows(int64_t number, const float* x, const void* weight, const float* scale, float* y, int64_t inputs,
          int64_t size) {
  if (number == R) return product<W, R>(x, static_cast<const W*>(weight), scale, y, inputs, size);
  if constexpr (R < MOST) rows<W, R + 1>(number, x, weight, scale, y, inputs, size);
}

at::Tensor few(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& scale) {
  int64_t number = x.size(0), inputs = x.size(1), size = weight.size(0);
  at::Tensor given = x.to(at::kFloat).contiguous(), found = at::empty({number, size}, given.options());
  const float* scales = scale ? scale->const_data_ptr<float>() : nullptr;
  auto* multiply = &rows<float>;
  if (weight.scalar_type() == at::kBFloat16) multiply = &rows<c10::BFloat16>;
  if (weight.scalar_type() == at::kChar) multiply = &rows<int8_t>;
  multiply(number, given.const_data_ptr<float>(), weight.const_data_ptr(), scales, found.mutable_data_ptr<float>(),
           inputs, size);
  return found.to(x.scalar_type());
}

// x [N, inputs] by a weight [size, inputs], which is multiplied as it is for a few rows;
// ``many`` [size, inputs], of the type of x, is what more rows are multiplied with.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& scale,
                  const at::Tensor& many) {
  TORCH_CHECK(x.dim() == 2 && weight.is_contiguous() && many.is_contiguous() && x.size(1) == many.size(1),
              "A product of ", x.sizes(), " with a weight of ", many.sizes(), " in ", weight.sizes());
  if (x.size(0) > 0 && x.size(0) <= MOST && x.size(1) % LANES == 0) return few(x, weight, scale);
  if (x.size(0) <= TRANSPOSED) return at::mm(many, x.t()).t().contiguous();
  return at::linear(x, many);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pastalm, library) {
  library.def("linear(Tensor x, Tensor weight, Tensor? scale, Tensor many) -> Tensor");
}

TORCH_LIBRARY_IMPL(pastalm, CPU, library) { library.impl("linear", &linear); }
