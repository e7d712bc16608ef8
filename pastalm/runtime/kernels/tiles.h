// The matrix unit of newer Intel processors (AMX), and products of up to 32 rows by it: sixteen outputs of sixteen rows
// in one instruction, so that the arithmetic takes less time than reading the weights.

#pragma once

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__linux__)
#define PASTALM_TILES

#include <sys/syscall.h>
#include <unistd.h>

namespace pastalm {

constexpr int SIDE = 16;        // rows of a tile, and numbers of 32 bits in each
constexpr int DEPTH = 2 * SIDE; // numbers of 16 bits in each
constexpr int TILED_ROWS = 2 * SIDE;
static_assert(LANES == SIDE);

// The system gives the unit to a program that asks for it.
inline bool tiles_allowed() {
  constexpr int ASK = 0x1023, TILE_DATA = 18;
  static bool allowed = syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
  return allowed;
}

// All eight tiles whole while this lives; then as somebody else in this thread had them, who may not look again.
class Tiles {
 public:
  Tiles() {
    _tile_storeconfig(&before_);
    Config own;
    own.palette = 1;
    std::fill_n(own.rows, 8, SIDE);
    std::fill_n(own.bytes, 8, 64);
    _tile_loadconfig(&own);
  }
  ~Tiles() { _tile_loadconfig(&before_); }

 private:
  struct alignas(64) Config {
    uint8_t palette = 0, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  };
  Config before_;
};

// What is to be loaded as a tile is in memory: some compilers do not know that loading one reads it.
inline void written() { asm volatile("" ::: "memory"); }

// Inputs [number, size] as tiles want them, pair by pair: [size / 2, columns], a column a row, zeros beyond ``number``.
inline void in_pairs(const BFloat* x, int64_t number, int64_t size, int64_t columns, uint32_t* pairs) {
  std::fill_n(pairs, size / 2 * columns, 0u);
  for (int64_t n = 0; n < number; n++)
    for (int64_t pair = 0; pair < size / 2; pair++) pairs[pair * columns + n] = load<uint32_t>(x + n * size + 2 * pair);
}

// Where the rows of a tile of sums begin.
constexpr int32_t STARTS[SIDE] = {0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240};

// 2 * SIDE outputs, or one SIDE, of one or two columns of tiles: y[row][output], ``stride`` apart.
template <bool TWO, bool WIDE>
void tiled(const uint32_t* pairs, const BFloat* weights, BFloat* y, int64_t number, int64_t size, int64_t stride) {
  constexpr int COLUMNS = WIDE ? TILED_ROWS : SIDE, OUTPUTS = TWO ? 2 * SIDE : SIDE;
  alignas(64) float sums[SIDE][SIDE];
  int64_t apart = 2 * size;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < size; i += DEPTH) {
    for (int o = 0; o < OUTPUTS; o++) __builtin_prefetch(weights + (o + OUTPUTS) * size + i);
    _tile_loadd(4, weights + i, apart);
    if constexpr (TWO) _tile_loadd(5, weights + SIDE * size + i, apart);
    _tile_loadd(6, pairs + i / 2 * COLUMNS, 4 * COLUMNS);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (TWO) _tile_dpbf16ps(1, 5, 6);
    if constexpr (WIDE) {
      _tile_loadd(7, pairs + i / 2 * COLUMNS + SIDE, 4 * COLUMNS);
      _tile_dpbf16ps(2, 4, 7);
      if constexpr (TWO) _tile_dpbf16ps(3, 5, 7);
    }
  }
  auto put = [&](int64_t output, int64_t first) {  // sixteen outputs of a row at once
    for (int64_t n = first; n < std::min<int64_t>(number, first + SIDE); n++)
      store(y + n * stride + output,
            (Floats)_mm512_i32gather_ps(_mm512_loadu_si512(STARTS), &sums[0][n - first], sizeof(float)));
  };
  _tile_stored(0, sums, 64);
  put(0, 0);
  if constexpr (TWO) {
    _tile_stored(1, sums, 64);
    put(SIDE, 0);
  }
  if constexpr (WIDE) {
    _tile_stored(2, sums, 64);
    put(0, SIDE);
  }
  if constexpr (TWO && WIDE) {
    _tile_stored(3, sums, 64);
    put(SIDE, SIDE);
  }
}

}  // namespace pastalm
#endif
