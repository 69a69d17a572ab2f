// A program without Python that runs random small models on every instruction set of its machine and prints one line
// for each: the same line for all sets, and the same on an ARM machine (or under qemu) as on this one.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <sstream>
#include <string>
#include <vector>

#include "malmoi.h"

namespace {

struct Random {
  uint64_t state;
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
  }
  float number() { return static_cast<float>(next() % 20001) / 10000.0f - 1.0f; }
};

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

class Maker {
 public:
  Maker(uint64_t seed, int kind) : random_{seed}, kind_(kind) {}

  void matrix(int role, int layer, int64_t outputs, int64_t inputs, int64_t experts = 1, int kind = -1) {
    kind = kind < 0 ? kind_ : kind;
    const bool whole = kind == MALMOI_INT8 || kind == MALMOI_INT4;
    const int64_t rows = up(outputs, 16), columns = up(inputs, whole ? 64 : 2), groups = columns / 64;
    const int64_t bits[] = {32, 16, 8, 4};
    uint8_t *data = piece(static_cast<size_t>(experts * rows * columns * bits[kind] / 8));
    const float size = 0.5f / std::sqrt(static_cast<float>(inputs));
    for (int64_t i = 0; i < experts * rows * columns * bits[kind] / 8; ++i) data[i] = static_cast<uint8_t>(random_.next());
    malmoi_tensor tensor{role, layer, kind, 0, data, sizes_.back(), nullptr, 0};
    if (kind == MALMOI_FLOAT32) {
      for (int64_t i = 0; i < experts * rows * columns; ++i) put(data, i, random_.number() * size * 2);
    } else if (kind == MALMOI_BFLOAT16) {
      for (int64_t i = 0; i < experts * rows * columns; ++i) {
        const float value = random_.number() * size * 2;
        std::memcpy(data + 2 * i, reinterpret_cast<const uint8_t *>(&value) + 2, 2);
      }
    } else if (kind == MALMOI_INT8) {
      float *scales = reinterpret_cast<float *>(piece(static_cast<size_t>(experts * rows) * 4));
      for (int64_t i = 0; i < experts * rows; ++i) scales[i] = size / 60;
      tensor.scales = scales, tensor.scale_bytes = sizes_.back();
    } else {
      auto *scales = reinterpret_cast<uint16_t *>(piece(static_cast<size_t>(experts * rows * groups) * 2));
      for (int64_t i = 0; i < experts * rows * groups; ++i) scales[i] = static_cast<uint16_t>(0x2400 + random_.next() % 64);
      tensor.scales = scales, tensor.scale_bytes = sizes_.back();
    }
    tensors.push_back(tensor);
  }

  void vector(int role, int layer, int64_t size, float base = 0) {
    uint8_t *data = piece(static_cast<size_t>(size) * 4);
    for (int64_t i = 0; i < size; ++i) put(data, i, base + 0.3f * random_.number());
    tensors.push_back({role, layer, MALMOI_FLOAT32, 0, data, sizes_.back(), nullptr, 0});
  }

  std::vector<malmoi_tensor> tensors;

 private:
  static void put(uint8_t *data, int64_t i, float value) { std::memcpy(data + 4 * i, &value, 4); }

  uint8_t *piece(size_t bytes) {
    memory_.emplace_back(bytes + 64);
    sizes_.push_back(bytes);
    uint8_t *start = memory_.back().data();
    return start + (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64;
  }

  Random random_;
  int kind_;
  std::deque<std::vector<uint8_t>> memory_;
  std::vector<size_t> sizes_;
};

malmoi_shape shape_of(int layout, const int64_t *windows) {
  malmoi_shape s{};
  s.version = MALMOI_VERSION, s.size = sizeof s;
  s.vocabulary = 77, s.width = 72, s.layers = 2, s.heads = 6, s.shared_heads = layout ? 2 : 6, s.head_size = 20;
  s.hidden = 100, s.positions = 96, s.experts = layout == 2 ? 5 : 0, s.experts_per_token = layout == 2 ? 2 : 0;
  s.rotary = layout > 0, s.layer_norm = layout == 0, s.norm_affine = 1, s.qk_norm = layout > 0, s.gated = layout > 0;
  s.activation = layout == 0 ? MALMOI_GELU_TANH : layout == 1 ? MALMOI_SILU : MALMOI_GELU;
  s.attention_bias = s.mlp_bias = layout == 0, s.sinks = layout == 2, s.tied = 1;
  s.norm_eps = 1e-5f, s.rotary_factor = 1, s.windows = windows;
  return s;
}

Maker weights_of(const malmoi_shape &s, int kind) {
  Maker make(static_cast<uint64_t>(kind + 1), kind);
  make.matrix(MALMOI_EMBEDDING, -1, s.vocabulary, s.width);
  if (s.rotary) make.vector(MALMOI_FREQUENCIES, -1, s.head_size / 2, 0.5f);
  else make.vector(MALMOI_POSITIONS, -1, s.positions * s.width);
  const auto norm = [&](int role, int layer, int64_t size) {
    make.vector(role, layer, size, 1);
    if (s.layer_norm) make.vector(role + 1, layer, size);
  };
  norm(MALMOI_FINAL_NORM, -1, s.width);
  const int64_t queries = s.heads * s.head_size, shared = s.shared_heads * s.head_size, experts = s.experts ? s.experts : 1;
  for (int i = 0; i < s.layers; ++i) {
    norm(MALMOI_FIRST_NORM, i, s.width);
    norm(MALMOI_SECOND_NORM, i, s.width);
    const int64_t outputs[] = {queries, shared, shared, s.width};
    for (int j = 0; j < 4; ++j) {
      make.matrix(MALMOI_QUERY + j, i, outputs[j], j == 3 ? queries : s.width);
      if (s.attention_bias) make.vector(MALMOI_QUERY_BIAS + j, i, outputs[j]);
    }
    if (s.qk_norm) make.vector(MALMOI_QUERY_NORM, i, s.head_size, 1), make.vector(MALMOI_KEY_NORM, i, s.head_size, 1);
    if (s.sinks) make.vector(MALMOI_SINKS, i, s.heads);
    if (s.experts) make.matrix(MALMOI_ROUTER, i, s.experts, s.width, 1, MALMOI_FLOAT32);
    if (s.gated) make.matrix(MALMOI_GATE, i, s.hidden, s.width, experts);
    make.matrix(MALMOI_UP, i, s.hidden, s.width, experts);
    make.matrix(MALMOI_DOWN, i, s.width, s.hidden, experts);
    if (s.mlp_bias) make.vector(MALMOI_UP_BIAS, i, s.hidden), make.vector(MALMOI_DOWN_BIAS, i, s.width);
  }
  return make;
}

// A hash of all logits of 70 tokens, read in pieces of 1, 2, 3 ... rows.
uint64_t run(const malmoi_shape &shape, const std::vector<malmoi_tensor> &tensors, const char *set) {
  malmoi_model *model = nullptr;
  malmoi_cache *cache = nullptr;
  if (malmoi_open(&shape, tensors.data(), static_cast<int64_t>(tensors.size()), set, &model) ||
      malmoi_cache_open(model, 3, &cache)) {
    std::fprintf(stderr, "%s\n", malmoi_message());
    return 0;
  }
  uint64_t hash = 14695981039346656037u;
  const int32_t table[3] = {2, 0, 1};
  for (int32_t first = 0, rows = 1; first < 70; first += rows++) {
    std::vector<int32_t> tokens, positions, zeros(static_cast<size_t>(rows)), wanted;
    for (int32_t i = 0; i < rows; ++i)
      tokens.push_back((first + i) * 31 % 77), positions.push_back(first + i), wanted.push_back(i);
    std::vector<float> logits(static_cast<size_t>(rows) * 77);
    malmoi_batch batch{MALMOI_VERSION, sizeof batch, rows, 1, 3, rows, tokens.data(), positions.data(), zeros.data(), table,
                       wanted.data(), logits.data(), static_cast<int64_t>(logits.size()), 2, 0};
    if (malmoi_step(model, cache, &batch)) std::fprintf(stderr, "%s\n", malmoi_message());
    for (float value : logits) {
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      hash = (hash ^ bits) * 1099511628211u;
    }
  }
  malmoi_cache_close(cache);
  malmoi_close(model);
  return hash;
}

}  // namespace

int main() {
  std::istringstream names(malmoi_instructions());
  const int64_t windows[2] = {0, 21};
  for (std::string set; names >> set;) {
    for (int layout = 0; layout < 3; ++layout)
      for (int kind = 0; kind < 4; ++kind) {
        const malmoi_shape shape = shape_of(layout, windows);
        const Maker made = weights_of(shape, kind);
        std::printf("%s%016llx", layout + kind ? " " : "", static_cast<unsigned long long>(run(shape, made.tensors, set.c_str())));
      }
    std::printf(" %s\n", set.c_str());
  }
}
