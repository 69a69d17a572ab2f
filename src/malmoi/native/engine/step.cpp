// One step: every row goes through all layers, phase by phase, the threads meeting at a barrier after each.
//
// R rows, W wanted rows, S slots (rows, or rows times experts per token)
#include <algorithm>
#include <atomic>
#include <cmath>

#include "batch.h"
#include "model.h"

namespace malmoi {
namespace {

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

struct Buffers {
  Rows x, normed, query, key, value, heads, hidden, results, last, scores;
  float *cosine = nullptr, *sine = nullptr, *attention = nullptr, *shares = nullptr;
  int32_t *chosen = nullptr, *order = nullptr, *sources = nullptr, *starts = nullptr;
};

class Step {
 public:
  Step(const Model &model, malmoi_cache &cache, const malmoi_batch &batch, const Plan &plan, Team &team)
      : m_(model), s_(model.shape), k_(*model.kernels), cache_(cache), batch_(batch), plan_(plan), team_(team),
        R_(batch.rows), W_(batch.wanted), per_token_(s_.experts ? s_.experts_per_token : 1), S_(R_ * per_token_) {}

  size_t cut(uint8_t *memory) {
    Cutter c(memory);
    b_.x = cut_rows(c, R_, s_.width, false);
    b_.normed = cut_rows(c, R_, s_.width, true);
    b_.query = cut_rows(c, R_, m_.queries(), false);
    b_.key = cut_rows(c, R_, m_.shared(), false);
    b_.value = cut_rows(c, R_, m_.shared(), false);
    b_.heads = cut_rows(c, R_, m_.queries(), true);
    b_.hidden = cut_rows(c, S_, s_.hidden, true);
    b_.last = cut_rows(c, W_, s_.width, true);
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
    clear_ends(b_.normed, R_, s_.width);
    clear_ends(b_.heads, R_, m_.queries());
    clear_ends(b_.hidden, S_, s_.hidden);
    clear_ends(b_.last, W_, s_.width);
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
    const int64_t piece = batch_.threads == 1 ? count : std::max<int64_t>(1, count / (8 * batch_.threads));
    for (int64_t first, last; team_.next(count, piece, first, last);)
      for (int64_t i = first; i < last; ++i) work(i);
    team_.barrier();
  }

  template <class Do> void blocks(int64_t count, Do work) {
    const int64_t piece = batch_.threads == 1 ? count : std::max<int64_t>(2, count / (4 * batch_.threads));
    for (int64_t first, last; team_.next(count, piece, first, last);) work(first, last);
    team_.barrier();
  }

  void member_(int member) {
    each(R_, [&](int64_t r) { enter(r); });
    for (int64_t i = 0; i < s_.layers; ++i) {
      const Layer &layer = m_.layers[static_cast<size_t>(i)];
      attention(layer, i, member);
      feed_forward(layer, i);
    }
    head();
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
  void read_stream(int64_t r, const Norm &norm, bool bytes, int64_t layer) {
    if (s_.post_norm) std::memcpy(row(b_.normed, r), row(b_.x, r), sizeof(float) * static_cast<size_t>(s_.width));
    else expect(k_.norm(norm, row(b_.x, r), row(b_.normed, r)), layer);
    if (bytes) expect(k_.quantise(b_.normed, r, s_.width), layer);
  }

  void attention(const Layer &layer, int64_t index, int member) {
    const bool bytes = whole(layer.query) || whole(layer.key) || whole(layer.value);
    each(R_, [&](int64_t r) { read_stream(r, layer.first, bytes, index); });
    const Matrix *maps[] = {&layer.query, &layer.key, &layer.value};
    const Rows *made[] = {&b_.query, &b_.key, &b_.value};
    blocks(layer.query.blocks + layer.key.blocks + layer.value.blocks, [&](int64_t first, int64_t last) {
      for (int i = 0; i < 3; ++i) {
        const int64_t end = std::min(last, maps[i]->blocks);
        if (first < end) k_.linear(*maps[i], b_.normed, {nullptr, nullptr, R_, 0, first, end}, made[i]->x, made[i]->stride, false);
        first = std::max<int64_t>(0, first - maps[i]->blocks), last -= maps[i]->blocks;
      }
    });
    each(R_, [&](int64_t r) { keep(layer, index, r); });
    const int64_t tiles = static_cast<int64_t>(plan_.tiles.size());
    each(tiles * s_.shared_heads, [&](int64_t job) {
      gather(layer, index, plan_.tiles[static_cast<size_t>(job / s_.shared_heads)], job % s_.shared_heads, member);
    });
    if (whole(layer.output)) each(R_, [&](int64_t r) { expect(k_.quantise(b_.heads, r, m_.queries()), index); });
    blocks(layer.output.blocks, [&](int64_t first, int64_t last) {
      k_.linear(layer.output, b_.heads, {nullptr, nullptr, R_, 0, first, last}, b_.x.x, b_.x.stride, true);
    });
  }

  // Queries and keys normalised and turned, keys and values written into the cache.
  void keep(const Layer &layer, int64_t index, int64_t r) {
    const int64_t D = s_.head_size, position = batch_.positions[r];
    const auto turn = [&](float *head, const Norm &norm) {
      if (s_.qk_norm) expect(k_.norm(norm, head, head), index);
      if (s_.rotary) k_.rotate(head, b_.cosine + r * D / 2, b_.sine + r * D / 2, D / 2);
    };
    for (int64_t h = 0; h < s_.heads; ++h) turn(row(b_.query, r) + h * D, layer.query_norm);
    const int32_t *table = batch_.tables + batch_.sequence[r] * batch_.table_width;
    uint16_t *block = cache_.block(index, table[position / BLOCK]);
    for (int64_t h = 0; h < s_.shared_heads; ++h, block += cache_.head_halves) {
      turn(row(b_.key, r) + h * D, layer.key_norm);
      k_.keep_key(block, row(b_.key, r) + h * D, D, position % BLOCK);
      k_.keep_value(block + D * BLOCK, row(b_.value, r) + h * D, D, position % BLOCK);
    }
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
      q.query[i] = row(b_.query, r) + h * D;
      q.out[i] = row(b_.heads, r) + h * D;
      q.sink[i] = layer.sinks ? layer.sinks[h] : 0.0f;
      q.end[i] = batch_.positions[r] + 1;
      q.begin[i] = layer.window ? std::max<int64_t>(0, q.end[i] - layer.window) : 0;
    }
    k_.attend(q);
  }

  void feed_forward(const Layer &layer, int64_t index) {
    each(R_, [&](int64_t r) {
      if (s_.post_norm) expect(k_.norm(layer.first, row(b_.x, r), row(b_.x, r)), index);
      read_stream(r, layer.second, whole(layer.up), index);
      if (s_.experts) choose(layer, r);
    });
    if (s_.experts) {
      int64_t first, last;
      if (team_.next(1, 1, first, last)) sort_slots();
      team_.barrier();
    }
    const Matrix *gate = s_.gated ? &layer.gate : nullptr;
    experts(layer.up.blocks, [&](const Work &work) {
      k_.feed(gate, layer.up, b_.normed, {b_sources(work), work.to, work.rows, work.expert, work.first, work.last},
              b_.hidden.x, b_.hidden.stride, s_.activation, s_.limit);
    });
    if (whole(layer.down)) each(S_, [&](int64_t i) { expect(k_.quantise(b_.hidden, i, s_.hidden), index); });
    const Rows &out = s_.experts ? b_.results : b_.x;
    experts(layer.down.blocks,
            [&](const Work &work) { k_.linear(layer.down, b_.hidden, work, out.x, out.stride, !s_.experts); });
    if (!s_.experts && !s_.post_norm) return;
    each(R_, [&](int64_t r) {
      for (int64_t i = r * per_token_; s_.experts && i < (r + 1) * per_token_; ++i)
        k_.gather(row(b_.x, r), row(b_.results, i), b_.shares[i], s_.width);
      if (s_.post_norm) expect(k_.norm(layer.second, row(b_.x, r), row(b_.x, r)), index);
    });
  }

  void choose(const Layer &layer, int64_t r);
  void sort_slots();
  const int32_t *b_sources(const Work &work) const { return work.to ? b_.sources + (work.to - b_.order) : nullptr; }

  // Pieces of all blocks, of every expert that has rows; without experts, of the one network that has all.
  template <class Do> void experts(int64_t count, Do work) {
    if (!s_.experts) {
      blocks(count, [&](int64_t first, int64_t last) { work(Work{nullptr, nullptr, R_, 0, first, last}); });
      return;
    }
    const int64_t pieces = batch_.threads == 1 ? 1 : std::min<int64_t>(count, 2 * batch_.threads);
    each(s_.experts * pieces, [&](int64_t job) {
      const int64_t expert = job / pieces, piece = job % pieces;
      const int32_t *slots = b_.order + b_.starts[expert];
      const int64_t rows = b_.starts[expert + 1] - b_.starts[expert];
      if (rows) work(Work{slots, slots, rows, expert, count * piece / pieces, count * (piece + 1) / pieces});
    });
  }

  void head() {
    each(W_, [&](int64_t w) {
      const float *x = row(b_.x, batch_.wanted_rows[w]);
      if (s_.post_norm) std::memcpy(row(b_.last, w), x, sizeof(float) * static_cast<size_t>(s_.width));
      else expect(k_.norm(m_.final_norm, x, row(b_.last, w)), s_.layers - 1);
      if (whole(m_.head)) expect(k_.quantise(b_.last, w, s_.width), s_.layers - 1);
    });
    blocks(m_.head.blocks, [&](int64_t first, int64_t last) {
      k_.linear(m_.head, b_.last, {nullptr, nullptr, W_, 0, first, last}, batch_.logits, s_.vocabulary, false);
    });
    each(W_, [&](int64_t w) { expect(k_.finite(batch_.logits + w * s_.vocabulary, s_.vocabulary), s_.layers); });
  }

  const Model &m_;
  const malmoi_shape &s_;
  const Kernels &k_;
  malmoi_cache &cache_;
  const malmoi_batch &batch_;
  const Plan &plan_;
  Team &team_;
  const int64_t R_, W_, per_token_, S_;
  Buffers b_;
  std::atomic<int64_t> trouble_{0};
};

// The best experts of a row and their shares: probabilities made to sum to one, which cancels the softmax's own sum.
void Step::choose(const Layer &layer, int64_t r) {
  const int32_t one = static_cast<int32_t>(r);
  k_.linear(layer.router, b_.normed, {&one, &one, 1, 0, 0, layer.router.blocks}, b_.scores.x, b_.scores.stride, false);
  float *scores = row(b_.scores, r);
  int32_t *chosen = b_.chosen + r * per_token_;
  float *shares = b_.shares + r * per_token_, total = 0;
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
void Step::sort_slots() {
  std::fill(b_.starts, b_.starts + s_.experts + 1, 0);
  for (int64_t i = 0; i < S_; ++i) ++b_.starts[b_.chosen[i] + 1];
  for (int64_t e = 0; e < s_.experts; ++e) b_.starts[e + 1] += b_.starts[e];
  for (int64_t i = S_ - 1; i >= 0; --i) {  // from behind, counting each expert's end down to its start
    const int32_t place = --b_.starts[b_.chosen[i] + 1];
    b_.order[place] = static_cast<int32_t>(i);
    b_.sources[place] = static_cast<int32_t>(i / per_token_);
  }
  // every start now stands one expert too far
  for (int64_t e = 0; e < s_.experts; ++e) b_.starts[e] = b_.starts[e + 1];
  b_.starts[s_.experts] = static_cast<int32_t>(S_);
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
