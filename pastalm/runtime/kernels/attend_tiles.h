// Attention by the matrix unit: sixteen rows at once, each a query head of one key head. The more queries a sequence
// has, the more rows there are for the same keys, which are read once for all of them.

#pragma once

#include <cmath>
#include <functional>
#include <numeric>

#include "heads.h"
#include "tiles.h"

#ifdef PASTALM_TILES
namespace pastalm {

constexpr float HIDDEN = -1e30f;  // the score of a slot that a row does not see
static_assert(CHUNK == DEPTH);

// Up to sixteen rows of one sequence: where their queries and their results begin, and which slots they see.
struct Rows {
  int64_t number = 0;
  const BFloat* queries[SIDE];
  const bool* visible[SIDE];
  BFloat* results[SIDE];

  void add(const BFloat* query, const bool* seen, BFloat* result) {
    queries[number] = query, visible[number] = seen, results[number++] = result;
  }
};

// Numbers of one vector and of another in turn: of their first halves, of their second ones.
struct Turns {
  uint16_t places[2][DEPTH];
  constexpr Turns() : places() {
    for (int i = 0; i < 2 * DEPTH; i++) places[i / DEPTH][i % DEPTH] = i / 2 + i % 2 * DEPTH;
  }
};
constexpr Turns IN_TURN;

// Attends for one group of rows after the other, with the tiles of a :class:`Tiles`.
class TiledAttention {
 public:
  void attend(const Rows& rows, const Head<BFloat>& keys, const Head<BFloat>& values, int64_t slots, float scaling) {
    see(rows, slots);
    ask(rows, keys.width);
    score(keys);
    soften(scaling);
    for (int64_t first = 0; first < values.width; first += 4 * SIDE) take(rows, values, first);
  }

 private:
  // Which rows see a slot, a bit a row; and the chunks that any of them sees.
  void see(const Rows& rows, int64_t slots) {
    seen_.assign(slots, 0);
    for (int64_t r = 0; r < rows.number; r++)
      for (int64_t s = 0; s < slots; s++) seen_[s] |= rows.visible[r][s] << r;
    chunks_.clear();
    for (int64_t s = 0; s < slots; s += CHUNK)
      if (std::accumulate(&seen_[s], &seen_[s] + CHUNK, 0, std::bit_or<>())) chunks_.push_back(s);
    scores_.resize(chunks_.size() * CHUNK);
    weights_.resize(chunks_.size() * SIDE * SIDE);
  }

  // The queries, pair by pair, a column a row.
  void ask(const Rows& rows, int64_t width) {
    pairs_.assign(width / 2 * SIDE, 0);
    for (int64_t r = 0; r < rows.number; r++)
      for (int64_t i = 0; i < width; i += 2) pairs_[i / 2 * SIDE + r] = load<uint32_t>(rows.queries[r] + i);
    written();
  }

  // Scores of the chunks' slots, a vector of rows each.
  void score(const Head<BFloat>& keys) {
    int64_t apart = keys.step * sizeof(BFloat);
    for (size_t c = 0; c < chunks_.size(); c++) {
      const BFloat* key = keys.at(chunks_[c]);
      if (c + 1 < chunks_.size()) fetch(keys, chunks_[c + 1], 0);
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t i = 0; i < keys.width; i += DEPTH) {
        _tile_loadd(4, key + i, apart);
        _tile_loadd(5, key + SIDE * keys.step + i, apart);
        _tile_loadd(6, &pairs_[i / 2 * SIDE], 4 * SIDE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
      }
      _tile_stored(0, &scores_[c * CHUNK], 4 * SIDE);
      _tile_stored(1, &scores_[c * CHUNK + SIDE], 4 * SIDE);
    }
  }

  // Scores become weights, and the sums of these: [16, slots], two slots a word.
  void soften(float scaling) {
    Floats hidden = Floats{} + HIDDEN, most = hidden;
    for (size_t s = 0; s < scores_.size(); s++) {
      auto bits = seen_[chunks_[s / CHUNK] + s % CHUNK];
      scores_[s] = (Floats)_mm512_mask_mov_ps((__m512)hidden, bits, (__m512)(scores_[s] * scaling));
      most = largest(most, scores_[s]);
    }
    constexpr uint32_t HALF = 0x8000;  // of what bfloat16 leaves out
    sums_ = Floats{};
    Ints rows = load<Ints>(STARTS) * (int)chunks_.size();
    for (size_t s = 0; s < scores_.size(); s += 2) {
      Floats even = exponential(scores_[s] - most), odd = exponential(scores_[s + 1] - most);
      sums_ += even + odd;
      Words low = (load<Words>(&even) + HALF) >> 16, high = (load<Words>(&odd) + HALF) >> 16 << 16;
      _mm512_i32scatter_epi32(&weights_[s / 2], (__m512i)rows, (__m512i)(low | high), 4);
    }
    sums_ = most == hidden ? Floats{} + INFINITY : sums_;  // a row that sees no slot takes nothing
    written();
  }

  // Up to 64 numbers of each slot of a chunk are soon needed.
  static void fetch(const Head<BFloat>& from, int64_t slot, int64_t first) {
    for (int64_t s = slot; s < slot + CHUNK; s++)
      for (int64_t i = first; i < std::min(first + 4 * SIDE, from.width); i += DEPTH) __builtin_prefetch(from.at(s) + i);
  }

  // What the rows take of up to 64 numbers of the values.
  void take(const Rows& rows, const Head<BFloat>& values, int64_t first) {
    bool wide = values.width - first > 2 * SIDE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t c = 0; c < chunks_.size(); c++) {
      const BFloat* value = values.at(chunks_[c]) + first;
      if (c + 1 < chunks_.size()) fetch(values, chunks_[c + 1], first);
      pair_up(value, values.step, 0);
      if (wide) pair_up(value + DEPTH, values.step, 2);
      written();
      _tile_loadd(4, &weights_[c * SIDE], chunks_.size() * 4 * SIDE);
      _tile_loadd(5, paired_[0], 4 * SIDE);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(6, paired_[1], 4 * SIDE);
      _tile_dpbf16ps(1, 4, 6);
      if (!wide) continue;
      _tile_loadd(5, paired_[2], 4 * SIDE);
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(6, paired_[3], 4 * SIDE);
      _tile_dpbf16ps(3, 4, 6);
    }
    Floats taken[4][SIDE];
    _tile_stored(0, taken[0], 4 * SIDE);
    _tile_stored(1, taken[1], 4 * SIDE);
    _tile_stored(2, taken[2], 4 * SIDE);
    _tile_stored(3, taken[3], 4 * SIDE);
    for (int64_t r = 0; r < rows.number; r++)
      for (int t = 0; t < (wide ? 4 : 2); t++) store(rows.results[r] + first + t * SIDE, taken[t][r] / sums_[r]);
  }

  // Two tiles of 16 numbers of a chunk's values, a slot and the next side by side.
  void pair_up(const BFloat* value, int64_t step, int tile) {
    for (int64_t pair = 0; pair < SIDE; pair++) {
      const BFloat* slot = value + 2 * pair * step;
      __m512i even = _mm512_loadu_si512(slot), odd = _mm512_loadu_si512(slot + step);
      for (int half = 0; half < 2; half++) {
        __m512i both = _mm512_permutex2var_epi16(even, _mm512_loadu_si512(IN_TURN.places[half]), odd);
        _mm512_storeu_si512(&paired_[tile + half][pair], both);
      }
    }
  }

  std::vector<uint16_t> seen_;
  std::vector<int64_t> chunks_;
  std::vector<uint32_t> pairs_, weights_;
  std::vector<Floats> scores_;
  Floats sums_;
  Words paired_[4][SIDE];
};

}  // namespace pastalm
#endif
