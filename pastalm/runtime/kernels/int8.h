// Products of a few rows with int8 weights that lie in the order in which they are read: blocks of 16 outputs, in each
// 64 inputs at a time, four inputs of an output side by side. [size / 16, inputs / 64, 16, 16, 4], zeros where there is
// no input or output.
//
// The matrix unit multiplies whole numbers by whole numbers. So inputs are rounded too, to 16 bits of the largest of
// their row, which is finer than bfloat16 for inputs above 1/127 of it. The unit takes them as two bytes, a high and a
// low one.

#pragma once

#include "tiles.h"
#include "vectors.h"

namespace pastalm {

constexpr int DEEP = 64;               // inputs of a tile of int8 weights
constexpr int OUTPUTS = 16;            // and its outputs
constexpr int BLOCK = OUTPUTS * DEEP;  // its bytes
constexpr int AHEAD = 4 * BLOCK;       // so many bytes before they are used, weights are asked for

// V vectors of a tile's outputs, of R rows: x [R, inputs]. What is added to a sum waits for what was added before,
// so where sums are few, each is made in PARTS.
template <int R, int V>
void outputs_of(const float* x, int64_t inputs, const int8_t* weights, Floats (*sums)[V]) {
  constexpr int PARTS = R * V > 2 ? 1 : 4;
  Floats own[PARTS][R][V] = {};
  for (int64_t i = 0; i < inputs; i += 4, weights += 4 * OUTPUTS) {
    __builtin_prefetch(weights + AHEAD);
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      Ints four = load<Ints>(weights + 4 * LANES * v);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        Floats read = __builtin_convertvector((four << (24 - 8 * j)) >> 24, Floats);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) own[j % PARTS][r][v] += read * x[r * inputs + i + j];
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) {
      Floats all = own[0][r][v];
      for (int part = 1; part < PARTS; part++) all += own[part][r][v];
      sums[r][v] = all;
    }
}

#ifdef PASTALM_TILES
constexpr int PAIRED = SIDE / 2;  // rows of inputs of a tile: their high bytes, and below them their low ones

// Rows of inputs as tiles of bytes, ``inputs`` in a row, and what a one of each is worth.
class RoundedRows {
 public:
  RoundedRows(const float* x, int64_t number, int64_t inputs) : inputs(inputs) {
    bytes_.assign((number + PAIRED - 1) / PAIRED * SIDE * inputs, 0);
    for (int64_t n = 0; n < number; n++) {
      int8_t* high = bytes_.data() + (n / PAIRED * SIDE + n % PAIRED) * inputs;
      worth[n] = round(x + n * inputs, high, high + PAIRED * inputs);
    }
  }
  const int8_t* group(int64_t number) const { return bytes_.data() + number * SIDE * inputs; }

  const int64_t inputs;
  float worth[TILED_ROWS];

 private:
  float round(const float* x, int8_t* high, int8_t* low) const {
    constexpr float MOST = 127 * 256;
    Floats sizes = {}, wrong = {};  // zeros, unless an input is infinite or no number: then is the row's worth none
    for (int64_t i = 0; i < inputs; i += LANES) {
      Floats given = load<Floats>(x + i);
      sizes = largest(sizes, largest(given, -given));
      wrong += given - given;
    }
    float most = largest_of(sizes), times = most > 0 ? MOST / most : 0;
    for (int64_t i = 0; i < inputs; i += LANES) {
      Ints all = nearest(load<Floats>(x + i) * times), rest = (all << 24) >> 24;
      Bytes highs = __builtin_convertvector((all - rest) >> 8, Bytes), lows = __builtin_convertvector(rest, Bytes);
      std::memcpy(high + i, &highs, sizeof highs);
      std::memcpy(low + i, &lows, sizeof lows);
    }
    return most / MOST + total(wrong);
  }
  std::vector<int8_t> bytes_;
};

// Tile G of sums: 16 outputs of a group of rows. (A tile is named by a literal.)
template <int G>
void add_group(const RoundedRows& x, int64_t i) {
  _tile_loadd(5, x.group(G) + i, x.inputs);
  if constexpr (G == 0) _tile_dpbssd(0, 5, 4);
  if constexpr (G == 1) _tile_dpbssd(1, 5, 4);
  if constexpr (G == 2) _tile_dpbssd(2, 5, 4);
  if constexpr (G == 3) _tile_dpbssd(3, 5, 4);
}

// 16 outputs of up to G * PAIRED rows.
template <int G>
void sixteen_in_tiles(const RoundedRows& x, const int8_t* weights, int32_t (*sums)[SIDE][SIDE]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < x.inputs; i += DEEP, weights += BLOCK) {
    for (int line = 0; line < BLOCK; line += 64) __builtin_prefetch(weights + AHEAD + line);
    _tile_loadd(4, weights, 4 * OUTPUTS);
    add_group<0>(x, i);
    if constexpr (G > 1) add_group<1>(x, i);
    if constexpr (G > 2) add_group<2>(x, i);
    if constexpr (G > 3) add_group<3>(x, i);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
}

constexpr void (*IN_TILES[])(const RoundedRows&, const int8_t*, int32_t (*)[SIDE][SIDE]) = {
    sixteen_in_tiles<1>, sixteen_in_tiles<2>, sixteen_in_tiles<3>, sixteen_in_tiles<4>};

// What the sums of a row are: [16] outputs.
inline Floats of_row(int32_t (*sums)[SIDE][SIDE], const RoundedRows& x, int64_t n) {
  auto* high = sums[n / PAIRED][n % PAIRED];
  auto as_floats = [](const int32_t* from) { return __builtin_convertvector(load<Ints>(from), Floats); };
  return (as_floats(high) * 256.f + as_floats(high + PAIRED * SIDE)) * x.worth[n];
}
#endif

}  // namespace pastalm
