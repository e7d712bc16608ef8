// As many numbers at once as a register holds, on any processor: what the kernels of this folder are written in. Sums
// are float32.

#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace pastalm {

using BFloat = c10::BFloat16;

// Not more than a register holds: of wider vectors gcc keeps sums in memory, and is three times as slow.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
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
#elif defined(__AVX__)
  __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)lanes), _mm256_extractf128_ps((__m256)lanes, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float parts[LANES];
  std::memcpy(parts, &lanes, sizeof parts);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
#endif
}

// ``one`` * ``other`` + ``sum``, rounded once where the processor can. Left to gcc, that would depend on how many sums the
// code around it has.
inline Floats fused(Floats one, Floats other, Floats sum) {
#ifdef __AVX512F__
  return (Floats)_mm512_fmadd_ps((__m512)one, (__m512)other, (__m512)sum);
#elif defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)one, (__m256)other, (__m256)sum);
#else
  return one * other + sum;
#endif
}

// Numbers of any kind, as float32.

inline Floats numbers(const float* from) { return load<Floats>(from); }

inline Floats numbers(const BFloat* from) {
  Words bits = __builtin_convertvector(load<Halves>(from), Words) << 16;
  return load<Floats>(&bits);
}

// e to the power of each number, none of which is above zero; within 2e-7 of it. What is no number stays none.
inline Floats exponential(Floats x) {
  Floats least = Floats{} - 87.f, halves = (x < least ? least : x) * 1.44269504f;
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

// ``number`` rounded up to whole units.
inline int64_t whole(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }

inline Floats largest(Floats one, Floats other) { return one > other ? one : other; }

inline float largest_of(Floats lanes) {
  float most = lanes[0];
  for (int i = 1; i < LANES; i++) most = std::max(most, lanes[i]);
  return most;
}

// The nearest whole number to each, of less than 2^22.
inline Ints nearest(Floats x) {
  constexpr float WHOLE = 12582912.f;
  return __builtin_convertvector((x + WHOLE) - WHOLE, Ints);
}

// The first ``number`` numbers of a vector, stored as a type has them.

inline void store(float* to, Floats from, int64_t number = LANES) { std::memcpy(to, &from, number * sizeof *to); }

inline void store(BFloat* to, Floats from, int64_t number = LANES) {
  Words bits = load<Words>(&from), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  Words kept = from == from ? rounded : Words{} + 0x7fc0;
  Halves halves = __builtin_convertvector(kept, Halves);
  std::memcpy(to, &halves, number * sizeof *to);
}

// Room for so many numbers that stays with the thread that asks for it.
inline float* room(int64_t numbers) {
  static thread_local std::vector<float> numbers_of_thread;
  if ((int64_t)numbers_of_thread.size() < numbers) numbers_of_thread.resize(numbers);
  return numbers_of_thread.data();
}

// Rows [number, size] as float32, ``padded`` numbers each, zeros behind the given ones: where they are, or in the room.
template <class T>
const float* as_floats(const T* from, int64_t number, int64_t size, int64_t padded) {
  if constexpr (std::is_same_v<T, float>)
    if (size == padded) return from;
  float* found = room(number * padded);
  for (int64_t n = 0; n < number; n++)
    for (int64_t i = 0; i < padded; i++) found[n * padded + i] = i < size ? (float)from[n * size + i] : 0.f;
  return found;
}

}  // namespace pastalm
