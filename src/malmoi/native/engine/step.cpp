// One step: every row goes through all layers, phase by phase, the threads meeting at a barrier after each.
//
// R rows, W wanted rows, S slots (rows, or rows times experts per token)
//
// A barrier costs about a microsecond, and a step has several for every layer. So one row alone is normalised and rounded
// by every thread for itself, into a row of its own: the same work twice is less than waiting once.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "batch.h"
#include "model.h"

namespace malmoi {
namespace {

constexpr size_t PIECE_BYTES = 8192;  // of weights, at least, that a thread takes at a time

// Cuts one piece of memory into arrays; without memory it only counts.
class Cutter {
 public:
  explicit Cutter(uint8_t *memory) : memory_(memory) {}
  template <class T> T *take(int64_t count) {
    const size_t begin = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return memory_ ? reinterpret_cast<T *>(memory_ + begin) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  uint8_t *memory_;
  size_t used_ = 0;
};

// Rows begin an odd number of cache lines apart: rows a power of two apart would compete for the same few places of the
// first-level cache.
int64_t odd_lines(int64_t bytes) { return ((bytes + 63) / 64 | 1) * 64; }

Rows cut_rows(Cutter &cutter, int64_t count, int64_t size, bool bytes) {
  Rows rows;
  const int64_t wide = padded(size, GROUP);
  rows.stride = odd_lines(wide * 4) / 4;
  rows.x = cutter.take<float>(count * rows.stride);
  if (!bytes) return rows;
  rows.byte_stride = odd_lines(wide);
  rows.group_stride = wide / GROUP;
  rows.bytes = cutter.take<int8_t>(count * rows.byte_stride);
  rows.scales = cutter.take<float>(count * rows.group_stride);
  rows.sums = cutter.take<int32_t>(count * rows.group_stride);
  return rows;
}

// What lies between a row's end and the end of its last group must be zero; the memory held other things before.
void clear_ends(const Rows &rows, int64_t count, int64_t size) {
  const int64_t wide = padded(size, GROUP);
  if (wide == size || !rows.x) return;
  for (int64_t i = 0; i < count; ++i)
    std::memset(rows.x + i * rows.stride + size, 0, static_cast<size_t>(wide - size) * sizeof(float));
}

// Rows of the step: all, or those named.
struct Some {
  const int32_t *rows = nullptr;
  int64_t count = 0;
  int64_t operator[](int64_t i) const { return rows ? rows[i] : i; }
};

struct Buffers {
  Rows x, normed, query, key, value, heads, hidden, results, last, scores;
  float *cosine = nullptr, *sine = nullptr, *attention = nullptr, *shares = nullptr;
  int32_t *chosen = nullptr, *order = nullptr, *sources = nullptr, *starts = nullptr;
};

class Step {
 public:
  Step(const Model &model, malmoi_cache &cache, const malmoi_batch &batch, const Plan &plan, Team &team)
      : m_(model), s_(model.shape), k_(*model.kernels), cache_(cache), batch_(batch), plan_(plan), team_(team),
        R_(batch.rows), W_(batch.wanted), per_token_(s_.experts ? s_.experts_per_token : 1), S_(R_ * per_token_),
        alone_(R_ == 1 && batch.threads > 1 && !s_.post_norm && !s_.experts) {}

  size_t cut(uint8_t *memory) {
    Cutter c(memory);
    const int64_t mine = alone_ ? batch_.threads : 0;
    b_.x = cut_rows(c, R_, s_.width, false);
    b_.normed = cut_rows(c, std::max(R_, mine), s_.width, true);
    b_.query = cut_rows(c, R_, m_.queries(), false);
    b_.key = cut_rows(c, R_, m_.shared(), false);
    b_.value = cut_rows(c, R_, m_.shared(), false);
    b_.heads = cut_rows(c, std::max(R_, mine), m_.queries(), true);
    b_.hidden = cut_rows(c, std::max(S_, mine), s_.hidden, true);
    b_.last = cut_rows(c, std::max(W_, mine), s_.width, true);
    if (s_.experts) {
      b_.results = cut_rows(c, S_, s_.width, false);
      b_.scores = cut_rows(c, R_, s_.experts, false);
      b_.shares = c.take<float>(S_);
      b_.chosen = c.take<int32_t>(S_);
      b_.order = c.take<int32_t>(S_);
      b_.sources = c.take<int32_t>(S_);
      b_.starts = c.take<int32_t>(s_.experts + 1);
    }
    if (s_.rotary) {
      b_.cosine = c.take<float>(R_ * s_.head_size / 2);
      b_.sine = c.take<float>(R_ * s_.head_size / 2);
    }
    b_.attention = c.take<float>(batch_.threads * QUERIES * plan_.span);
    return c.used();
  }

  void run() {
    clear_ends(b_.normed, alone_ ? batch_.threads : R_, s_.width);
    clear_ends(b_.heads, R_, m_.queries());
    clear_ends(b_.hidden, S_, s_.hidden);
    clear_ends(b_.last, alone_ ? batch_.threads : W_, s_.width);
    team_.run(batch_.threads, [this](int member) { member_(member); });
    if (trouble_ == 0) return;
    const std::string where = trouble_ > s_.layers ? "the logits" : "layer " + std::to_string(trouble_ - 1);
    throw Failure(MALMOI_NOT_FINITE, "NaN or infinity came up in " + where +
                                         "; the weights are damaged, or were trained until they diverged");
  }

 private:
  static bool whole(const Matrix &m) { return m.kind == MALMOI_INT8 || m.kind == MALMOI_INT4; }

  float *row(const Rows &rows, int64_t i) const { return rows.x + i * rows.stride; }

  void expect(bool fine, int64_t layer) {
    if (!fine) trouble_.store(layer + 1, std::memory_order_relaxed);
  }

  template <class Do> void each(int64_t count, Do work) {  // rows, or tiles, or slots
    for (int64_t first, last; team_.next(count, 1, first, last);)
      for (int64_t i = first; i < last; ++i) work(i);
    team_.barrier();
  }

  // Of the one row, every thread for itself; of more, each row by one thread. `work(row, the row of its own memory)`.
  template <class Do> void each_or_own(const Some &some, int member, Do work) {
    if (!alone_) return each(some.count, [&](int64_t i) { work(some[i], some[i]); });
    if (some.count) work(some[0], member);
  }

  // Handed out in pairs where many rows read them: kernels take two blocks side by side then.
  template <class Do> void blocks(int64_t count, size_t bytes, Do work) {
    const int64_t unit = R_ > MOST_ROWS ? 2 : 1;
    const int64_t least = std::max<int64_t>(1, static_cast<int64_t>(PIECE_BYTES / bytes) / unit);
    for (int64_t first, last; team_.next((count + unit - 1) / unit, least, first, last);)
      work(first * unit, std::min(last * unit, count));
    team_.barrier();
  }

  // What a matrix reads when the row was prepared by `each_or_own`.
  static Work reading(const Some &some, const int32_t *own, int64_t first, int64_t last) {
    return {own ? own : some.rows, some.rows, some.count, 0, first, last};
  }

  void member_(int member) {
    const int32_t own = member, *mine = alone_ ? &own : nullptr;
    each(R_, [&](int64_t r) { enter(r); });
    const Some all{nullptr, R_}, narrow{plan_.last_rows.data(), static_cast<int64_t>(plan_.last_rows.size())};
    for (int64_t i = 0; i < s_.layers; ++i) {
      const Layer &layer = m_.layers[static_cast<size_t>(i)];
      const bool narrowed = i + 1 == s_.layers && plan_.narrowed;
      attention(layer, i, member, mine, all, narrowed ? narrow : all, narrowed ? plan_.last_tiles : plan_.tiles);
      feed_forward(layer, i, member, mine, narrowed ? narrow : all);
    }
    head(member, mine);
  }

  void enter(int64_t r) {
    float *x = row(b_.x, r);
    const int64_t position = batch_.positions[r], half = s_.head_size / 2;
    k_.embed(m_.embedding, batch_.tokens[r], x);
    if (m_.positions) k_.gather(x, m_.positions + position * s_.width, 1.0f, s_.width);
    for (int64_t i = 0; i < (s_.rotary ? half : 0); ++i) {
      const double angle = static_cast<float>(position) * m_.frequencies[i];
      b_.cosine[r * half + i] = static_cast<float>(std::cos(angle)) * s_.rotary_factor;
      b_.sine[r * half + i] = static_cast<float>(std::sin(angle)) * s_.rotary_factor;
    }
  }

  // The stream as a half of a block reads it: normalised, or as it is where norms stand after the sums.
  void read_stream(int64_t r, int64_t to, const Norm &norm, bool bytes, int64_t layer) {
    if (s_.post_norm) std::memcpy(row(b_.normed, to), row(b_.x, r), sizeof(float) * static_cast<size_t>(s_.width));
    else expect(k_.norm(norm, row(b_.x, r), row(b_.normed, to)), layer);
    if (bytes) expect(k_.quantise(b_.normed, to, to, s_.width), layer);
  }

  // Keys and values of `all` rows; queries and what follows from them of `some`.
  void attention(const Layer &layer, int64_t index, int member, const int32_t *mine, const Some &all, const Some &some,
                 const std::vector<QueryTile> &tiles) {
    const bool bytes = whole(layer.query) || whole(layer.key) || whole(layer.value);
    each_or_own(all, member, [&](int64_t r, int64_t to) { read_stream(r, to, layer.first, bytes, index); });
    const Matrix *maps[] = {&layer.query, &layer.key, &layer.value};
    const Rows *made[] = {&b_.query, &b_.key, &b_.value};
    blocks(layer.query.blocks + layer.key.blocks + layer.value.blocks, layer.query.block_bytes,
           [&](int64_t first, int64_t last) {
      for (int i = 0; i < 3; ++i) {
        const int64_t end = std::min(last, maps[i]->blocks);
        if (first < end)
          k_.linear(*maps[i], b_.normed, reading(i ? all : some, mine, first, end), made[i]->x, made[i]->stride, false);
        first = std::max<int64_t>(0, first - maps[i]->blocks), last -= maps[i]->blocks;
      }
    });
    const bool kept = !plan_.apart || some.count < all.count;
    if (kept)  // before anybody looks at them; otherwise each row's by whoever takes the row
      // head by head: a row's key goes into as many cache lines as it has numbers, the next row's into the same
      each(R_ * s_.shared_heads, [&](int64_t i) { keep(layer, index, i % R_, i / R_); });
    each(static_cast<int64_t>(tiles.size()) * s_.shared_heads, [&](int64_t job) {
      const QueryTile &tile = tiles[static_cast<size_t>(job / s_.shared_heads)];
      if (!kept) keep(layer, index, tile.row, job % s_.shared_heads);
      gather(layer, index, tile, job % s_.shared_heads, member);
    });
    if (whole(layer.output))
      each_or_own(some, member, [&](int64_t r, int64_t to) { expect(k_.quantise(b_.heads, r, to, m_.queries()), index); });
    const int32_t *own = whole(layer.output) ? mine : nullptr;
    blocks(layer.output.blocks, layer.output.block_bytes, [&](int64_t first, int64_t last) {
      k_.linear(layer.output, b_.heads, reading(some, own, first, last), b_.x.x, b_.x.stride, true);
    });
  }

  // Normalised and turned as the layer wants it.
  void turn(const Norm &norm, int64_t index, int64_t r, float *head) {
    const int64_t half = s_.head_size / 2;
    if (s_.qk_norm) expect(k_.norm(norm, head, head), index);
    if (s_.rotary) k_.rotate(head, b_.cosine + r * half, b_.sine + r * half, half);
  }

  // A row's key and value, written into the cache.
  void keep(const Layer &layer, int64_t index, int64_t r, int64_t h) {
    const int64_t D = s_.head_size, position = batch_.positions[r];
    const int32_t *table = batch_.tables + batch_.sequence[r] * batch_.table_width;
    uint16_t *block = cache_.block(index, table[position / BLOCK]) + static_cast<size_t>(h) * cache_.head_halves;
    turn(layer.key_norm, index, r, row(b_.key, r) + h * D);
    k_.keep_key(block, row(b_.key, r) + h * D, D, position % BLOCK);
    k_.keep_value(block + D * BLOCK, row(b_.value, r) + h * D, D, position % BLOCK);
  }

  // `tile`: some (row, query head of a group) pairs of one sequence, numbered row by row.
  void gather(const Layer &layer, int64_t index, const QueryTile &tile, int64_t shared_head, int member) {
    const int64_t group = s_.heads / s_.shared_heads, D = s_.head_size;
    Queries q;
    q.count = tile.count, q.head_size = D, q.span = plan_.span, q.sinks = layer.sinks != nullptr;
    q.scale = 1.0f / std::sqrt(static_cast<float>(D));
    q.cache = cache_.block(index, 0) + static_cast<size_t>(shared_head) * cache_.head_halves;
    q.block_stride = cache_.stride();
    q.table = batch_.tables + batch_.sequence[tile.row] * batch_.table_width;
    q.scores = b_.attention + member * QUERIES * plan_.span;
    for (int i = 0; i < tile.count; ++i) {
      const int64_t r = tile.row + (tile.first + i) / group, h = shared_head * group + (tile.first + i) % group;
      turn(layer.query_norm, index, r, row(b_.query, r) + h * D);
      q.query[i] = row(b_.query, r) + h * D;
      q.out[i] = row(b_.heads, r) + h * D;
      q.sink[i] = layer.sinks ? layer.sinks[h] : 0.0f;
      q.end[i] = batch_.positions[r] + 1;
      q.begin[i] = layer.window ? std::max<int64_t>(0, q.end[i] - layer.window) : 0;
    }
    k_.attend(q);
  }

  void feed_forward(const Layer &layer, int64_t index, int member, const int32_t *mine, const Some &some) {
    if (s_.post_norm)
      each(some.count, [&](int64_t i) {
        expect(k_.norm(layer.first, row(b_.x, some[i]), row(b_.x, some[i])), index);
        read_stream(some[i], some[i], layer.second, whole(layer.up), index);
        if (s_.experts) choose(layer, some[i], i);
      });
    else if (s_.experts)
      each(some.count, [&](int64_t i) {
        read_stream(some[i], some[i], layer.second, whole(layer.up), index);
        choose(layer, some[i], i);
      });
    else
      each_or_own(some, member, [&](int64_t r, int64_t to) { read_stream(r, to, layer.second, whole(layer.up), index); });
    const int64_t slots = some.count * per_token_;
    if (s_.experts) {
      int64_t first, last;
      if (team_.next(1, 1, first, last)) sort_slots(some);
      team_.barrier();
    }
    const Matrix *gate = s_.gated ? &layer.gate : nullptr;
    experts(layer.up, some.count, [&](Work work) {
      work.from = s_.experts ? b_.sources + (work.to - b_.order) : mine ? mine : some.rows;
      k_.feed(gate, layer.up, b_.normed, work, b_.hidden.x, b_.hidden.stride, s_.activation, s_.limit);
    });
    if (whole(layer.down))
      each_or_own({nullptr, slots}, member, [&](int64_t i, int64_t to) { expect(k_.quantise(b_.hidden, i, to, s_.hidden), index); });
    const Rows &out = s_.experts ? b_.results : b_.x;
    experts(layer.down, some.count, [&](Work work) {
      work.from = s_.experts ? work.to : mine && whole(layer.down) ? mine : nullptr;
      if (!s_.experts) work.to = some.rows;
      k_.linear(layer.down, b_.hidden, work, out.x, out.stride, !s_.experts);
    });
    if (!s_.experts && !s_.post_norm) return;
    each(some.count, [&](int64_t n) {
      float *x = row(b_.x, some[n]);
      for (int64_t i = n * per_token_; s_.experts && i < (n + 1) * per_token_; ++i)
        k_.gather(x, row(b_.results, i), b_.shares[i], s_.width);
      if (s_.post_norm) expect(k_.norm(layer.second, x, x), index);
    });
  }

  void choose(const Layer &layer, int64_t r, int64_t place);
  void sort_slots(const Some &some);

  // Pieces of all blocks, of every expert that has rows; without experts, of the one network that has all. `work.to`
  // names the slots.
  template <class Do> void experts(const Matrix &matrix, int64_t rows, Do work) {
    const int64_t count = matrix.blocks;
    if (!s_.experts) {
      blocks(count, matrix.block_bytes, [&](int64_t first, int64_t last) { work(Work{nullptr, nullptr, rows, 0, first, last}); });
      return;
    }
    const int64_t pieces = batch_.threads == 1 ? 1 : std::min<int64_t>(count, 2 * batch_.threads);
    each(s_.experts * pieces, [&](int64_t job) {
      const int64_t expert = job / pieces, piece = job % pieces, had = b_.starts[expert + 1] - b_.starts[expert];
      if (had)
        work(Work{nullptr, b_.order + b_.starts[expert], had, expert, count * piece / pieces, count * (piece + 1) / pieces});
    });
  }

  void head(int member, const int32_t *mine) {
    const auto prepare = [&](int64_t w, int64_t to) {
      const float *x = row(b_.x, batch_.wanted_rows[w]);
      if (s_.post_norm) std::memcpy(row(b_.last, to), x, sizeof(float) * static_cast<size_t>(s_.width));
      else expect(k_.norm(m_.final_norm, x, row(b_.last, to)), s_.layers - 1);
      if (whole(m_.head)) expect(k_.quantise(b_.last, to, to, s_.width), s_.layers - 1);
    };
    if (W_ == 0) return;
    each_or_own({nullptr, W_}, member, prepare);
    blocks(m_.head.blocks, m_.head.block_bytes, [&](int64_t first, int64_t last) {
      k_.linear(m_.head, b_.last, reading({nullptr, W_}, mine, first, last), batch_.logits, s_.vocabulary, false);
      const int64_t begin = first * LANES, end = std::min(last * LANES, s_.vocabulary);
      for (int64_t w = 0; w < W_; ++w) expect(k_.finite(batch_.logits + w * s_.vocabulary + begin, end - begin), s_.layers);
    });
  }

  const Model &m_;
  const malmoi_shape &s_;
  const Kernels &k_;
  malmoi_cache &cache_;
  const malmoi_batch &batch_;
  const Plan &plan_;
  Team &team_;
  const int64_t R_, W_, per_token_, S_;
  const bool alone_;  // one row, which every thread prepares for itself
  Buffers b_;
  std::atomic<int64_t> trouble_{0};
};

// The best experts of a row and their shares: probabilities made to sum to one, which cancels the softmax's own sum.
void Step::choose(const Layer &layer, int64_t r, int64_t place) {
  const int32_t one = static_cast<int32_t>(r);
  k_.linear(layer.router, b_.normed, {&one, &one, 1, 0, 0, layer.router.blocks}, b_.scores.x, b_.scores.stride, false);
  float *scores = row(b_.scores, r);
  int32_t *chosen = b_.chosen + place * per_token_;
  float *shares = b_.shares + place * per_token_, total = 0;
  for (int64_t i = 0; i < per_token_; ++i) {
    int64_t best = 0;
    for (int64_t e = 1; e < s_.experts; ++e)
      if (scores[e] > scores[best]) best = e;
    chosen[i] = static_cast<int32_t>(best);
    shares[i] = scores[best];
    scores[best] = -INFINITY;
  }
  k_.exponentials(shares, per_token_, shares[0]);
  for (int64_t i = 0; i < per_token_; ++i) total += shares[i];
  for (int64_t i = 0; i < per_token_; ++i) shares[i] /= total;
}

// The slots (row, choice) in the order of their experts, so that each expert's weights are read once.
void Step::sort_slots(const Some &some) {
  const int64_t slots = some.count * per_token_;
  std::fill(b_.starts, b_.starts + s_.experts + 1, 0);
  for (int64_t i = 0; i < slots; ++i) ++b_.starts[b_.chosen[i] + 1];
  for (int64_t e = 0; e < s_.experts; ++e) b_.starts[e + 1] += b_.starts[e];
  for (int64_t i = slots - 1; i >= 0; --i) {  // from behind, counting each expert's end down to its start
    const int32_t place = --b_.starts[b_.chosen[i] + 1];
    b_.order[place] = static_cast<int32_t>(i);
    b_.sources[place] = static_cast<int32_t>(some[i / per_token_]);
  }
  // every start now stands one expert too far
  for (int64_t e = 0; e < s_.experts; ++e) b_.starts[e] = b_.starts[e + 1];
  b_.starts[s_.experts] = static_cast<int32_t>(slots);
}

}  // namespace

void step(const Model &model, malmoi_cache &cache, const malmoi_batch &batch, Team &team, Scratch &scratch) {
  const Plan plan = checked(model, cache, batch, scratch);
  Step step(model, cache, batch, plan, team);
  const size_t needed = step.cut(nullptr);
  if (scratch.memory.size() < needed) {
    scratch.memory = Array<uint8_t>();
    scratch.memory = Array<uint8_t>(needed);
  }
  step.cut(scratch.memory.data());
  step.run();
}

}  // namespace malmoi
