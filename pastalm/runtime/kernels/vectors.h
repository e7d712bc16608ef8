// Sixteen numbers at once, on any processor: what the kernels of this folder are written in. Sums are float32.

#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace pastalm {

constexpr int LANES = 16;

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

// Numbers of any kind, as float32.

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

// e to the power of each number, none of which is above zero; within 2e-7 of it.
inline Floats exponential(Floats x) {
  Floats least = Floats{} - 87.f, halves = (x > least ? x : least) * 1.44269504f;
  constexpr float WHOLE = 12582912.f;  // adding it leaves no room for a fraction
  Floats whole = (halves + WHOLE) - WHOLE, f = halves - whole;
  Floats power = 0.000154035304f * f + 0.00133335581f;
  power = power * f + 0.00961812911f;
  power = power * f + 0.0555041087f;
  power = power * f + 0.240226507f;
  power = power * f + 0.693147181f;
  power = power * f + 1.f;
  Ints scale = (__builtin_convertvector(whole, Ints) + 127) << 23;
  return power * load<Floats>(&scale);
}

// Room for so many numbers that stays with the thread that asks for it; it has two.
inline float* room(int64_t numbers, int which) {
  static thread_local std::vector<float> rooms[2];
  if ((int64_t)rooms[which].size() < numbers) rooms[which].resize(numbers);
  return rooms[which].data();
}

// The numbers of a tensor as float32: where they are, or in the first room.
inline const float* as_floats(const at::Tensor& given) {
  bool narrow = given.scalar_type() == at::kBFloat16 && given.is_contiguous();
  if (given.scalar_type() == at::kFloat && given.is_contiguous()) return given.const_data_ptr<float>();
  float* found = room(given.numel(), 0);
  at::Tensor wide = narrow ? given : given.to(at::kFloat).contiguous();
  if (narrow)
    std::copy_n(given.const_data_ptr<c10::BFloat16>(), given.numel(), found);
  else
    std::copy_n(wide.const_data_ptr<float>(), given.numel(), found);
  return found;
}

// A tensor is filled as float32: where it is, or in the second room, from where ``fill`` takes it over.
inline float* to_fill(at::Tensor& made) {
  return made.scalar_type() == at::kFloat ? made.mutable_data_ptr<float>() : room(made.numel(), 1);
}

inline void fill(at::Tensor& made, const float* from) {
  if (made.scalar_type() == at::kBFloat16)
    std::copy_n(from, made.numel(), made.mutable_data_ptr<c10::BFloat16>());
  else if (made.scalar_type() != at::kFloat)
    made.copy_(at::from_blob(const_cast<float*>(from), made.sizes(), at::kFloat));
}

}  // namespace pastalm
