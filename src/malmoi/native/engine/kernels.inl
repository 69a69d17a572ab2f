// The kernels, written once over sixteen lanes. Included by one file for each instruction set, which says
// `#define SET avx512` and includes that set's simd header first.
//
// Exactness: what one output of one row is made of, and in which order, depends on nothing but the matrix. Rows are
// taken several at a time only so that a weight that was read once serves all of them; each keeps its own sums.
#include <cmath>
#include <initializer_list>

#include "kernels.h"
#include "malmoi.h"

namespace malmoi {
namespace {

using namespace SET;

#include "functions.inl"

inline int rest(int64_t size, int64_t i) { return static_cast<int>(size - i < LANES ? size - i : LANES); }

// ------------------------------------------------------------------------------------------------- blocks of weights
//
// One row at a time is limited by the memory: weights are read as one stream, block after block, which the CPU foresees
// by itself. Asking for them ahead in software, or reading two blocks side by side, made it a third slower. Several rows
// read the same stream more slowly, and there the CPU's foresight fails: it came to half of what memory and arithmetic
// allow. So from PREFETCHED rows on, every line that is read asks for one further on: in the only tile of rows 8 kB
// ahead (4 kB won little); where there are more tiles, each asks for its share of the next block. Into the second-level
// cache: asking for the first ties up the few places where its misses wait.

constexpr int PREFETCHED = 4;
constexpr uintptr_t AHEAD = 8192;

inline void prefetch(uintptr_t place) {
#if defined(__GNUC__)
  __builtin_prefetch(reinterpret_cast<const void *>(place), 0, 2);
#else
  static_cast<void>(place);
#endif
}

struct Tile {
  uintptr_t ahead, step;  // what to ask for at the first line of the block, and how far on at each further line
  const float *x[MOST_ROWS];
  const int8_t *bytes[MOST_ROWS];
  const float *scales[MOST_ROWS];
  const int32_t *sums[MOST_ROWS];
  int64_t to[MOST_ROWS];
};

// Called for each line of weights that R rows read.
template <int R> inline void look_ahead(uintptr_t &ahead, const Tile &tile) {
  if constexpr (R >= PREFETCHED) {
    prefetch(ahead);
    ahead += tile.step;
  }
}

// Even and odd inputs are summed apart: two chains of additions run at once.
template <int R> inline void dot_float32(const uint8_t *w, const Tile &tile, int64_t inputs, F *out) {
  const float *weights = reinterpret_cast<const float *>(w);
  F even[R], odd[R];
  uintptr_t ahead = tile.ahead;
  for (int r = 0; r < R; ++r) even[r] = odd[r] = zero();
  for (int64_t k = 0; k < inputs; k += 2, weights += 2 * LANES) {
    look_ahead<R>(ahead, tile);
    look_ahead<R>(ahead, tile);
    const F first = load(weights), second = load(weights + LANES);
    for (int r = 0; r < R; ++r) {
      even[r] = fma(first, set1(tile.x[r][k]), even[r]);
      odd[r] = fma(second, set1(tile.x[r][k + 1]), odd[r]);
    }
  }
  for (int r = 0; r < R; ++r) out[r] = add(even[r], odd[r]);
}

template <int R> inline void dot_bfloat16(const uint8_t *w, const Tile &tile, int64_t inputs, F *out) {
  F even[R], odd[R];
  uintptr_t ahead = tile.ahead;
  for (int r = 0; r < R; ++r) even[r] = odd[r] = zero();
  for (int64_t k = 0; k < inputs; k += 2, w += 4 * LANES) {
    look_ahead<R>(ahead, tile);
    F first, second;
    load_pairs(w, first, second);
    for (int r = 0; r < R; ++r) {
      even[r] = fma(first, set1(tile.x[r][k]), even[r]);
      odd[r] = fma(second, set1(tile.x[r][k + 1]), odd[r]);
    }
  }
  for (int r = 0; r < R; ++r) out[r] = add(even[r], odd[r]);
}

// Whole numbers are exact in any order, so one row may use several sums at once. `CHAINS` of them hide the latency.
template <int R> constexpr int CHAINS = R == 1 ? 4 : R < 4 ? 2 : 1;

// B blocks, `apart` bytes from each other, are taken side by side where several tiles of rows read them: four numbers of
// a row, once fetched, then serve 32 outputs. With one block every product fetches its own, and the loop waits for that.
template <int R, int B>
inline void dot_int8(const uint8_t *w, size_t apart, const Tile &tile, int64_t groups, F (*out)[R]) {
  constexpr int C = CHAINS<R>;
  uintptr_t ahead = tile.ahead;
  for (int b = 0; b < B; ++b)
    for (int r = 0; r < R; ++r) out[b][r] = zero();
  for (int64_t g = 0; g < groups; ++g) {
    I sum[B][R][C];
    for (int r = 0; r < R; ++r) {
      const I begin = iset1(-BYTE_OFFSET * tile.sums[r][g]);
      for (int b = 0; b < B; ++b)
        for (int c = 0; c < C; ++c) sum[b][r][c] = c ? iset1(0) : begin;
    }
    for (int k = 0; k < 16; k += C)
      for (int c = 0; c < C; ++c, w += 64) {
        Bytes weights[B];
        for (int b = 0; b < B; ++b) {
          look_ahead<R>(ahead, tile);
          weights[b] = prepared8(load_bytes(w + static_cast<size_t>(b) * apart));
        }
        for (int r = 0; r < R; ++r)
          for (int b = 0; b < B; ++b)
            sum[b][r][c] = dot8(sum[b][r][c], weights[b], tile.bytes[r] + g * GROUP + 4 * (k + c));
      }
    for (int r = 0; r < R; ++r) {
      const F scale = set1(tile.scales[r][g]);
      for (int b = 0; b < B; ++b) {
        for (int c = 1; c < C; ++c) sum[b][r][0] = iadd(sum[b][r][0], sum[b][r][c]);
        out[b][r] = fma(to_float(sum[b][r][0]), scale, out[b][r]);
      }
    }
  }
}

template <int R, int B>
inline void dot_int4(const uint8_t *w, size_t apart, const uint16_t *scales, const Tile &tile, int64_t groups,
                     F (*out)[R]) {
  constexpr int C = CHAINS<R> > 1 ? 2 : 1;
  uintptr_t ahead = tile.ahead;
  for (int b = 0; b < B; ++b)
    for (int r = 0; r < R; ++r) out[b][r] = zero();
  for (int64_t g = 0; g < groups; ++g, scales += LANES) {
    I sum[B][R][C];
    for (int r = 0; r < R; ++r) {
      const I begin = iset1(-8 * tile.sums[r][g]);
      for (int b = 0; b < B; ++b)
        for (int c = 0; c < C; ++c) sum[b][r][c] = c ? iset1(0) : begin;
    }
    for (int k = 0; k < 8; ++k, w += 64) {
      Bytes low[B], high[B];
      for (int b = 0; b < B; ++b) {
        look_ahead<R>(ahead, tile);
        const Bytes both = load_bytes(w + static_cast<size_t>(b) * apart);
        low[b] = low_halves(both), high[b] = high_halves(both);
      }
      for (int r = 0; r < R; ++r)
        for (int b = 0; b < B; ++b)
          dot4_twice(sum[b][r][0], sum[b][r][C - 1], low[b], high[b], tile.bytes[r] + g * GROUP + 8 * k);
    }
    for (int b = 0; b < B; ++b) {
      const F scale = load_half(scales + b * groups * LANES);
      for (int r = 0; r < R; ++r) {
        if (C == 2) sum[b][r][0] = iadd(sum[b][r][0], sum[b][r][1]);
        out[b][r] = fma(to_float(sum[b][r][0]), mul(scale, set1(tile.scales[r][g])), out[b][r]);
      }
    }
  }
}

// R rows times B blocks of sixteen outputs, bias included.
template <int R, int B>
inline void products(const Matrix &m, int64_t expert, int64_t block, const Tile &tile, F (*out)[R]) {
  const uint8_t *w = m.data + expert * m.expert_bytes + block * m.block_bytes;
  if (m.kind == MALMOI_INT8) {
    dot_int8<R, B>(w, m.block_bytes, tile, m.groups, out);
    for (int b = 0; b < B; ++b) {
      const F scale = load(static_cast<const float *>(m.scales) + expert * m.expert_scales + (block + b) * LANES);
      for (int r = 0; r < R; ++r) out[b][r] = mul(out[b][r], scale);
    }
  } else if (m.kind == MALMOI_INT4) {
    const auto *scales = static_cast<const uint16_t *>(m.scales) + expert * m.expert_scales + block * m.groups * LANES;
    dot_int4<R, B>(w, m.block_bytes, scales, tile, m.groups, out);
  } else if constexpr (B == 1) {  // pairs are of whole numbers alone (`each_tile`)
    if (m.kind == MALMOI_FLOAT32) dot_float32<R>(w, tile, m.inputs, out[0]);
    else dot_bfloat16<R>(w, tile, m.inputs, out[0]);
  }
  if (m.bias)
    for (int b = 0; b < B; ++b) {
      const F bias = load(m.bias + (expert * m.blocks + block + b) * LANES);
      for (int r = 0; r < R; ++r) out[b][r] = add(out[b][r], bias);
    }
}

inline void fill(Tile &tile, int count, int64_t row, const Rows &in, const Work &work) {
  for (int r = 0; r < count; ++r) {
    const int64_t from = work.from ? work.from[row + r] : row + r;
    tile.x[r] = in.x + from * in.stride;
    tile.bytes[r] = in.bytes + from * in.byte_stride;
    tile.scales[r] = in.scales + from * in.group_stride;
    tile.sums[r] = in.sums + from * in.group_stride;
    tile.to[r] = work.to ? work.to[row + r] : row + r;
  }
}

// Calls `make` with each tile of rows and one or two blocks of outputs, as `make(rows, blocks, tile, block)`, the first
// two as constants.
template <int N> struct Count { static constexpr int value = N; };

template <int R, class Make>
inline void with_rows(int count, int64_t blocks, const Tile &tile, int64_t block, Make make) {
  if constexpr (R > 0) {
    if (count != R) return with_rows<R - 1>(count, blocks, tile, block, make);
    if constexpr (R >= PAIRED)
      if (blocks == 2) return make(Count<R>(), Count<2>(), tile, block);
    make(Count<R>(), Count<1>(), tile, block);
  }
}

template <class Make> inline void each_tile(const Matrix &m, const Rows &in, const Work &work, Make make) {
  const uintptr_t data = reinterpret_cast<uintptr_t>(m.data) + work.expert * m.expert_bytes;
  const bool whole = m.kind == MALMOI_INT8 || m.kind == MALMOI_INT4;  // the sums of two blocks fit into registers
  for (int64_t panel = 0; panel < work.rows; panel += PANEL) {
    const int64_t end = work.rows < panel + PANEL ? work.rows : panel + PANEL, tiles = (end - panel + ROWS - 1) / ROWS;
    const int64_t least = end - panel - (tiles - 1) * ROWS;  // rows of the last tile
    const int64_t most = whole && tiles > 1 && least >= PAIRED ? 2 : 1;
    for (int64_t block = work.first, blocks; block < work.last; block += blocks) {
      blocks = block + most <= work.last ? most : 1;
      const uintptr_t bytes = static_cast<uintptr_t>(blocks) * m.block_bytes;
      Tile tile;
      tile.ahead = data + block * m.block_bytes + (tiles == 1 ? AHEAD : bytes);
      tile.step = 64 / static_cast<uintptr_t>(tiles);
      for (int64_t row = panel; row < end; row += ROWS, tile.ahead += bytes / tiles) {
        const int count = static_cast<int>(end - row < ROWS ? end - row : ROWS);
        fill(tile, count, row, in, work);
        with_rows<ROWS>(count, blocks, tile, block, make);
      }
    }
  }
}

void linear(const Matrix &m, const Rows &in, const Work &work, float *out, int64_t stride, bool adds) {
  each_tile(m, in, work, [&](auto rows, auto blocks, const Tile &tile, int64_t block) {
    constexpr int R = decltype(rows)::value, B = decltype(blocks)::value;
    F made[B][R];
    products<R, B>(m, work.expert, block, tile, made);
    for (int b = 0; b < B; ++b) {
      const int64_t first = (block + b) * LANES;
      const int width = rest(m.outputs, first);
      for (int r = 0; r < R; ++r) {
        float *place = out + tile.to[r] * stride + first;
        store_n(place, adds ? add(load_n(place, width), made[b][r]) : made[b][r], width);
      }
    }
  });
}

void feed(const Matrix *gate, const Matrix &up, const Rows &in, const Work &work, float *out, int64_t stride,
          int activation, float limit) {
  each_tile(up, in, work, [&](auto rows, auto blocks, const Tile &tile, int64_t block) {
    constexpr int R = decltype(rows)::value, B = decltype(blocks)::value;
    F made[B][R], opened[B][R];
    products<R, B>(up, work.expert, block, tile, made);
    if (gate) products<R, B>(*gate, work.expert, block, tile, opened);
    for (int b = 0; b < B; ++b) {
      const int64_t first = (block + b) * LANES;
      const int width = rest(up.outputs, first);
      for (int r = 0; r < R; ++r) {
        F value;
        if (!gate) value = activated(made[b][r], activation);
        else if (limit > 0) value = bounded_gate(opened[b][r], made[b][r], limit);
        else value = mul(activated(opened[b][r], activation), made[b][r]);
        store_n(out + tile.to[r] * stride + first, value, width);
      }
    }
  });
}

// -------------------------------------------------------------------------------------------------- rows of numbers

void embed(const Matrix &m, int64_t row, float *out) {
  const int64_t block = row / LANES, lane = row % LANES;
  const uint8_t *w = m.data + block * m.block_bytes;
  for (int64_t k = 0; k < m.inputs; ++k) {
    switch (m.kind) {
      case MALMOI_FLOAT32: out[k] = reinterpret_cast<const float *>(w)[k * LANES + lane]; break;
      case MALMOI_BFLOAT16: {
        const uint32_t bits = static_cast<uint32_t>(
            reinterpret_cast<const uint16_t *>(w)[(k / 2 * LANES + lane) * 2 + k % 2]) << 16;
        std::memcpy(out + k, &bits, 4);
        break;
      }
      case MALMOI_INT8:
        out[k] = static_cast<float>(w[(k / 4 * LANES + lane) * 4 + k % 4] - 128) *
                 static_cast<const float *>(m.scales)[row];
        break;
      default: {
        const uint8_t both = w[(k / 8 * LANES + lane) * 4 + k % 4];
        const F scales = load_half(static_cast<const uint16_t *>(m.scales) + (block * m.groups + k / GROUP) * LANES);
        float scale[LANES];
        store(scale, scales);
        out[k] = static_cast<float>((k % 8 < 4 ? both & 15 : both >> 4) - 8) * scale[lane];
      }
    }
  }
}

bool norm(const Norm &n, const float *x, float *out) {
  float mean = 0;
  if (n.layer) {
    F total = zero();
    for (int64_t i = 0; i < n.size; i += LANES) total = add(total, load_n(x + i, rest(n.size, i)));
    mean = sum(total) / static_cast<float>(n.size);
  }
  F squares = zero();
  for (int64_t i = 0; i < n.size; i += LANES) {
    const F centred = within(sub(load_n(x + i, rest(n.size, i)), set1(mean)), 0, rest(n.size, i), zero());
    squares = fma(centred, centred, squares);
  }
  const float variance = sum(squares) / static_cast<float>(n.size);
  const F scale = set1(1.0f / std::sqrt(variance + n.eps));
  for (int64_t i = 0; i < n.size; i += LANES) {
    const int width = rest(n.size, i);
    F value = mul(sub(load_n(x + i, width), set1(mean)), scale);
    if (n.weight) value = mul(value, load_n(n.weight + i, width));
    if (n.bias) value = add(value, load_n(n.bias + i, width));
    store_n(out + i, value, width);
  }
  return std::isfinite(variance);
}

// A group's largest number becomes 127. NaN and infinity would vanish in bytes, so they are looked for here.
bool quantise(const Rows &rows, int64_t row, int64_t to_row, int64_t size) {
  const float *x = rows.x + row * rows.stride;
  F strange = zero();
  for (int64_t g = 0; g < padded(size, GROUP) / GROUP; ++g) {
    F part[4], most = zero();
    for (int i = 0; i < 4; ++i) {
      part[i] = load(x + g * GROUP + i * LANES);
      strange = fma(part[i], zero(), strange);
      most = max(abs(part[i]), most);
    }
    const float peak = largest(most), to = peak > 1e-30f ? 127.0f / peak : 0.0f;
    int32_t total = 0;
    for (int i = 0; i < 4; ++i)
      total += store_bytes(rows.bytes + to_row * rows.byte_stride + g * GROUP + i * LANES, mul(part[i], set1(to)));
    rows.scales[to_row * rows.group_stride + g] = peak / 127.0f;
    rows.sums[to_row * rows.group_stride + g] = total;
  }
  return sum(strange) == 0.0f;
}

void rotate(float *head, const float *cosine, const float *sine, int64_t half) {
  for (int64_t i = 0; i < half; i += LANES) {
    const int width = rest(half, i);
    const F a = load_n(head + i, width), b = load_n(head + half + i, width);
    const F c = load_n(cosine + i, width), s = load_n(sine + i, width);
    store_n(head + i, fma(a, c, mul(b, sub(zero(), s))), width);
    store_n(head + half + i, fma(b, c, mul(a, s)), width);
  }
}

inline F as_half(F x) { return max(min(x, set1(65504.0f)), set1(-65504.0f)); }

void keep_key(uint16_t *keys, const float *key, int64_t size, int64_t place) {
  for (int64_t i = 0; i < size; i += LANES) {
    uint16_t halves[LANES];
    store_half(halves, as_half(load_n(key + i, rest(size, i))));
    for (int j = 0; j < rest(size, i); ++j) keys[(i + j) * BLOCK + place] = halves[j];
  }
}

void keep_value(uint16_t *values, const float *value, int64_t size, int64_t place) {
  for (int64_t i = 0; i < size; i += LANES)
    store_half(values + place * padded(size, LANES) + i, as_half(load_n(value + i, rest(size, i))));
}

#include "attention.inl"

// ------------------------------------------------------------------------------------------------------------ others

void exponentials(float *x, int64_t size, float shift) {
  for (int64_t i = 0; i < size; i += LANES) {
    const int width = rest(size, i);
    store_n(x + i, exponential(sub(load_n(x + i, width), set1(shift))), width);
  }
}

void gather(float *out, const float *y, float weight, int64_t size) {
  for (int64_t i = 0; i < size; i += LANES) {
    const int width = rest(size, i);
    store_n(out + i, fma(load_n(y + i, width), set1(weight), load_n(out + i, width)), width);
  }
}

bool finite(const float *x, int64_t size) {
  F strange = zero();
  for (int64_t i = 0; i < size; i += LANES) strange = fma(load_n(x + i, rest(size, i)), zero(), strange);
  return sum(strange) == 0.0f;
}

}  // namespace

#define MALMOI_TABLE(set) set##_kernels
#define MALMOI_NAME(set) #set
#define MALMOI_EXPORT(set)                                                                                          \
  extern const Kernels MALMOI_TABLE(set);                                                                           \
  const Kernels MALMOI_TABLE(set) = {MALMOI_NAME(set), embed,  norm,         quantise, linear, feed,  rotate, \
                                     keep_key,         keep_value, attend, exponentials, gather, finite};
#define MALMOI_EXPORT_SET(set) MALMOI_EXPORT(set)
MALMOI_EXPORT_SET(SET)

}  // namespace malmoi
