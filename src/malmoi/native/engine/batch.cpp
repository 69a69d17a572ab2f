#include "batch.h"

#include <algorithm>

namespace malmoi {
namespace {

[[noreturn]] void bad(const std::string &what) { throw Failure(MALMOI_BAD_BATCH, what); }

std::string number(int64_t n) { return std::to_string(n); }

void check_sizes(const Model &model, const malmoi_cache &cache, const malmoi_batch &b) {
  if (b.version != MALMOI_VERSION || b.size != sizeof(malmoi_batch)) bad("the batch is of another version");
  if (cache.layers != model.shape.layers || cache.block_halves != model.block_halves())
    bad("the cache was made for another model");
  if (b.rows < 1 || b.rows > 1'000'000) bad("a step takes 1 to 1,000,000 rows, not " + number(b.rows));
  if (b.sequences < 1 || b.sequences > 1'000'000) bad("there must be 1 to 1,000,000 sequences, not " + number(b.sequences));
  if (b.table_width < 1 || b.table_width > 100'000'000) bad("a block table of " + number(b.table_width) + " entries");
  if (b.wanted < 0 || b.wanted > b.rows) bad(number(b.wanted) + " logits are wanted of " + number(b.rows) + " rows");
  if (!b.tokens || !b.positions || !b.sequence || !b.tables || (b.wanted && (!b.wanted_rows || !b.logits)))
    bad("an array is missing");
  if (b.logits_size < 0 || b.logits_size / model.shape.vocabulary < b.wanted) bad("the memory for logits is too small");
  if (b.threads < 1 || b.threads > 1024) bad("a step runs on 1 to 1024 threads, not " + number(b.threads));
}

// The first position that a row at `position` looks at, in the layer that looks furthest back.
int64_t reach(const Model &model, int64_t position) {
  int64_t widest = 0;
  for (const Layer &layer : model.layers) {
    if (layer.window == 0) return 0;
    widest = std::max(widest, layer.window);
  }
  return std::max<int64_t>(0, position + 1 - widest);
}

void check_row(const Model &model, const malmoi_batch &b, int64_t r, std::vector<int64_t> &ends) {
  const auto inside = [&](const char *what, int64_t value, int64_t limit) {
    if (value < 0 || value >= limit)
      bad("row " + number(r) + ": its " + what + " is " + number(value) + ", outside 0 to " + number(limit - 1));
  };
  inside("token", b.tokens[r], model.shape.vocabulary);
  inside("position", b.positions[r], model.shape.positions);
  inside("sequence", b.sequence[r], b.sequences);
  inside("place in the block table", b.positions[r] / BLOCK, b.table_width);
  int64_t &end = ends[static_cast<size_t>(b.sequence[r])];
  if (b.positions[r] < end)
    bad("row " + number(r) + ": rows of a sequence must stand in ascending position, but " + number(b.positions[r]) +
        " comes after " + number(end - 1));
  end = b.positions[r] + 1;
}

// Which rows the last layer is computed for, and the tiles that hold one of them.
void narrow(Plan &plan, const malmoi_batch &b, int64_t group) {
  plan.last_rows.assign(b.wanted_rows, b.wanted_rows + b.wanted);
  std::sort(plan.last_rows.begin(), plan.last_rows.end());
  plan.last_rows.erase(std::unique(plan.last_rows.begin(), plan.last_rows.end()), plan.last_rows.end());
  plan.narrowed = static_cast<int64_t>(plan.last_rows.size()) < b.rows;
  if (!plan.narrowed) return;
  for (const int32_t row : plan.last_rows)
    for (int64_t i = 0; i < group; i += QUERIES)
      plan.last_tiles.push_back({row, i, static_cast<int>(std::min<int64_t>(QUERIES, group - i))});
}

}  // namespace

Plan checked(const Model &model, const malmoi_cache &cache, const malmoi_batch &b, Scratch &scratch) {
  check_sizes(model, cache, b);
  std::vector<int64_t> ends(static_cast<size_t>(b.sequences), 0);
  for (int64_t r = 0; r < b.rows; ++r) check_row(model, b, r, ends);
  for (int64_t w = 0; w < b.wanted; ++w)
    if (b.wanted_rows[w] < 0 || b.wanted_rows[w] >= b.rows) bad("row " + number(b.wanted_rows[w]) + " is wanted, but does not exist");

  const size_t places = static_cast<size_t>(cache.blocks * BLOCK);
  if (scratch.written.size() < places || scratch.steps == UINT32_MAX) {
    scratch.written = Array<uint32_t>(places);
    scratch.steps = 0;
  }
  ++scratch.steps;

  Plan plan;
  const int64_t group = model.shape.heads / model.shape.shared_heads;
  for (int64_t first = 0, last; first < b.rows; first = last) {
    for (last = first + 1; last < b.rows && b.sequence[last] == b.sequence[first];) ++last;
    const int32_t *table = b.tables + b.sequence[first] * b.table_width;
    const int64_t begin = reach(model, b.positions[first]) / BLOCK, end = b.positions[last - 1] / BLOCK;
    for (int64_t i = begin; i <= end; ++i)
      if (table[i] < 0 || table[i] >= cache.blocks)
        bad("sequence " + number(b.sequence[first]) + ": entry " + number(i) + " of its block table is " +
            number(table[i]) + ", but the cache has " + number(cache.blocks) + " blocks");
    for (int64_t r = first; r < last; ++r) {
      uint32_t &place = scratch.written[static_cast<size_t>(table[b.positions[r] / BLOCK] * BLOCK + b.positions[r] % BLOCK)];
      if (place == scratch.steps) bad("row " + number(r) + ": another row writes the same place of the cache");
      place = scratch.steps;
    }
    const int64_t queries = (last - first) * group;
    plan.apart = plan.apart && last - first == 1 && queries <= QUERIES;
    for (int64_t i = 0; i < queries; i += QUERIES) {
      const int64_t count = std::min<int64_t>(QUERIES, queries - i);
      plan.tiles.push_back({first, i, static_cast<int>(count)});
      const int64_t from = reach(model, b.positions[first + i / group]) / BLOCK * BLOCK;
      plan.span = std::max(plan.span, padded(b.positions[first + (i + count - 1) / group] + 1, BLOCK) - from);
    }
  }
  narrow(plan, b, group);
  return plan;
}

}  // namespace malmoi
