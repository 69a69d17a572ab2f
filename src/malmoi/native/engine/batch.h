// What is found out about a batch before anything is computed.
#pragma once
#include <vector>

#include "model.h"

namespace malmoi {

// Queries of one run of rows (of one sequence, beginning at `row`), numbered row by row over the heads of a group.
struct QueryTile {
  int64_t row = 0, first = 0;
  int count = 0;
};

struct Plan {
  std::vector<QueryTile> tiles;
  // Of the last layer only what the wanted logits are made of is needed: these rows, ascending, and their tiles. None:
  // all of them.
  std::vector<int32_t> last_rows;
  std::vector<QueryTile> last_tiles;
  bool narrowed = false;  // last_rows holds
  bool apart = true;      // no row sees another row of this step: each sequence has one, in one tile
  int64_t span = 0;  // the most positions that a tile looks at
};

// Throws Failure for whatever cannot be computed, before anything was written.
Plan checked(const Model &model, const malmoi_cache &cache, const malmoi_batch &batch, Scratch &scratch);

}  // namespace malmoi
