// A model as the engine sees it: sizes, and for every layer its matrices and vectors.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "malmoi.h"
#include "memory.h"
#include "team.h"

namespace malmoi {

struct Layer {
  Norm first, second, query_norm, key_norm;
  Matrix query, key, value, output, router, gate, up, down;
  const float *sinks = nullptr;
  int64_t window = 0;
};

struct Model {
  malmoi_shape shape{};
  const Kernels *kernels = nullptr;
  Matrix embedding, head;
  const float *positions = nullptr;    // [positions][width], where they are learned
  const float *frequencies = nullptr;  // [head_size / 2], where they are rotary
  Norm final_norm;
  std::vector<Layer> layers;
  std::vector<Array<float>> vectors;  // the copies that the pointers above point into

  int64_t queries() const { return shape.heads * shape.head_size; }
  int64_t shared() const { return shape.shared_heads * shape.head_size; }
  int64_t key_halves() const { return shape.head_size * BLOCK; }
  size_t head_halves() const {  // keys and values of one head in one block
    return static_cast<size_t>(key_halves() + BLOCK * padded(shape.head_size, LANES));
  }
  size_t block_halves() const { return head_halves() * static_cast<size_t>(shape.shared_heads); }
};

// Checks everything; throws Failure.
void read_model(Model &model, const malmoi_shape &shape, const malmoi_tensor *tensors, int64_t count);

const Kernels *kernels_named(const char *name);  // null: not built or not on this CPU
const char *kernel_names();

}  // namespace malmoi

struct malmoi_cache {
  int64_t layers = 0, blocks = 0;
  size_t block_halves = 0, head_halves = 0;
  malmoi::Array<uint16_t> memory;  // [blocks][layers][heads] keys, then values

  uint16_t *block(int64_t layer, int64_t number) const {
    return memory.data() + static_cast<size_t>(number * layers + layer) * block_halves;
  }
  size_t stride() const { return block_halves * static_cast<size_t>(layers); }  // from one block to the next
};

namespace malmoi {

// The memory of a step, kept for the next one.
struct Scratch {
  Array<uint8_t> memory;
  Array<uint32_t> written;  // for each place of a cache, the last step that wrote it
  uint32_t steps = 0;
};

void step(const Model &model, malmoi_cache &cache, const malmoi_batch &batch, Team &team, Scratch &scratch);

}  // namespace malmoi

struct malmoi_model : malmoi::Model {
  std::mutex busy;
  std::unique_ptr<malmoi::Team> team = std::make_unique<malmoi::Team>();
  malmoi::Scratch scratch;

  void leave_forked_team() {
    if (!team->forked()) return;
    static_cast<void>(team.release());
    team = std::make_unique<malmoi::Team>();
  }
  ~malmoi_model() { leave_forked_team(); }
};
