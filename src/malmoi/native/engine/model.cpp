#include "model.h"

#include <cmath>
#include <map>

namespace malmoi {
namespace {

const char *const ROLE_NAMES[MALMOI_ROLES] = {
    "embedding", "head", "positions", "frequencies", "final norm", "final norm bias", "first norm", "first norm bias",
    "second norm", "second norm bias", "query", "key", "value", "output", "query bias", "key bias", "value bias",
    "output bias", "query norm", "key norm", "sinks", "router", "router bias", "gate", "up", "down", "gate bias",
    "up bias", "down bias"};

[[noreturn]] void bad(const std::string &what) { throw Failure(MALMOI_BAD_MODEL, what); }

std::string number(int64_t n) { return std::to_string(n); }

void within(const char *name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    bad(std::string(name) + " is " + number(value) + ", but must be from " + number(low) + " to " + number(high));
}

void check_shape(const malmoi_shape &s) {
  if (s.version != MALMOI_VERSION || s.size != sizeof(malmoi_shape))
    bad("the description is of version " + number(s.version) + " and " + number(s.size) +
        " bytes; this engine reads version " + number(MALMOI_VERSION) + " of " + number(sizeof(malmoi_shape)));
  within("vocabulary", s.vocabulary, 1, 10'000'000);
  within("width", s.width, 1, 1'000'000);
  within("layers", s.layers, 1, 10'000);
  within("heads", s.heads, 1, 10'000);
  within("shared_heads", s.shared_heads, 1, s.heads);
  if (s.heads % s.shared_heads) bad("heads is not a multiple of shared_heads");
  within("head_size", s.head_size, 1, 16'384);
  if (s.rotary && s.head_size % 2) bad("rotary positions turn pairs, but head_size is odd");
  within("hidden", s.hidden, 1, 10'000'000);
  within("positions", s.positions, 1, 100'000'000);
  within("experts", s.experts, 0, 100'000);
  if (s.experts) within("experts_per_token", s.experts_per_token, 1, s.experts);
  within("activation", s.activation, MALMOI_SILU, MALMOI_RELU);
  if (!(s.norm_eps > 0 && s.norm_eps < 1)) bad("norm_eps must lie between 0 and 1");
  if (!std::isfinite(s.rotary_factor) || !std::isfinite(s.limit) || s.limit < 0) bad("a factor is not a number");
  if (!s.windows) bad("windows is missing");
  for (int64_t i = 0; i < s.layers; ++i) within("a window", s.windows[i], 0, 100'000'000);
}

// The tensors by place, each taken once; at the end none may be left.
class Tensors {
 public:
  Tensors(Model &model, const malmoi_tensor *tensors, int64_t count) : model_(model) {
    within("the number of tensors", count, 1, 40 * (model.shape.layers + 1));
    if (!tensors) bad("the tensors are missing");
    for (int64_t i = 0; i < count; ++i) {
      const malmoi_tensor &t = tensors[i];
      within("a tensor's role", t.role, 0, MALMOI_ROLES - 1);
      within("a tensor's layer", t.layer, -1, model.shape.layers - 1);
      within("a tensor's kind", t.kind, MALMOI_FLOAT32, MALMOI_INT4);
      if (!held_.emplace(std::make_pair(t.layer, t.role), &t).second) bad(name(t.role, t.layer) + " is given twice");
    }
  }

  static std::string name(int role, int64_t layer) {
    return "the tensor '" + std::string(ROLE_NAMES[role]) + "'" + (layer < 0 ? "" : " of layer " + number(layer));
  }

  Matrix matrix(int role, int64_t layer, int64_t outputs, int64_t inputs, int64_t experts = 1) {
    const malmoi_tensor &t = take(role, layer);
    Matrix m;
    m.kind = t.kind, m.outputs = outputs;
    m.blocks = padded(outputs, LANES) / LANES;
    m.groups = padded(inputs, GROUP) / GROUP;
    const bool whole = t.kind == MALMOI_INT8 || t.kind == MALMOI_INT4;
    m.inputs = whole ? inputs : padded(inputs, 2);
    const int64_t stored = whole ? m.groups * GROUP : m.inputs;
    const int64_t bits[] = {32, 16, 8, 4};
    m.block_bytes = static_cast<size_t>(LANES * stored * bits[t.kind] / 8);
    m.expert_bytes = m.block_bytes * static_cast<size_t>(m.blocks);
    const std::string what = name(role, layer);
    require_bytes(what, t.bytes, m.expert_bytes * static_cast<size_t>(experts));
    if (!t.data || reinterpret_cast<uintptr_t>(t.data) % 64) bad(what + " does not begin at a multiple of 64 bytes");
    m.data = static_cast<const uint8_t *>(t.data);
    const size_t rows = static_cast<size_t>(m.blocks * LANES);
    if (t.kind == MALMOI_INT8) {
      m.expert_scales = rows;
      m.scales = copied(what + " (scales)", t.scales, t.scale_bytes, rows * static_cast<size_t>(experts));
    } else if (t.kind == MALMOI_INT4) {
      m.expert_scales = rows * static_cast<size_t>(m.groups);
      const size_t halves = m.expert_scales * static_cast<size_t>(experts);
      require_bytes(what + " (scales)", t.scale_bytes, halves * 2);
      if (!t.scales || reinterpret_cast<uintptr_t>(t.scales) % 2) bad(what + " has no scales");
      m.scales = t.scales;
      const auto *scales = static_cast<const uint16_t *>(t.scales);
      for (size_t i = 0; i < halves; ++i)
        if ((scales[i] & 0x7c00) == 0x7c00) throw Failure(MALMOI_NOT_FINITE, what + ": a scale is not finite");
    } else {
      if (t.scales || t.scale_bytes) bad(what + " has scales, but its kind has none");
      check_finite(what, m, experts);
    }
    return m;
  }

  const float *vector(int role, int64_t layer, int64_t size) {
    const malmoi_tensor &t = take(role, layer);
    if (t.kind != MALMOI_FLOAT32) bad(name(role, layer) + " must be float32");
    return copied(name(role, layer), t.data, t.bytes, static_cast<size_t>(size));
  }

  // Biases are padded as their matrix is.
  void bias(Matrix &m, bool wanted, int role, int64_t layer, int64_t experts = 1) {
    if (!wanted) return;
    const float *given = vector(role, layer, m.outputs * experts);
    Array<float> wide(static_cast<size_t>(m.blocks * LANES * experts));
    for (int64_t e = 0; e < experts; ++e)
      std::memcpy(wide.data() + e * m.blocks * LANES, given + e * m.outputs, sizeof(float) * static_cast<size_t>(m.outputs));
    m.bias = wide.data();
    model_.vectors.push_back(std::move(wide));
  }

  Norm norm(int role, int64_t layer, int64_t size, bool layer_norm) {
    Norm n;
    n.size = size, n.eps = model_.shape.norm_eps, n.layer = layer_norm;
    if (!model_.shape.norm_affine) return n;
    n.weight = vector(role, layer, size);
    if (layer_norm) n.bias = vector(role + 1, layer, size);
    return n;
  }

  void none_left() const {
    for (const auto &entry : held_)
      bad(name(entry.second->role, entry.second->layer) + " is given, but such a model has none");
  }

 private:
  const malmoi_tensor &take(int role, int64_t layer) {
    const auto found = held_.find({static_cast<int32_t>(layer), role});
    if (found == held_.end()) bad(name(role, layer) + " is missing");
    const malmoi_tensor &t = *found->second;
    held_.erase(found);
    return t;
  }

  static void require_bytes(const std::string &what, uint64_t given, size_t needed) {
    if (given != needed)
      bad(what + " has " + std::to_string(given) + " bytes, but " + std::to_string(needed) + " are needed");
  }

  const float *copied(const std::string &what, const void *data, uint64_t bytes, size_t count) {
    require_bytes(what, bytes, count * sizeof(float));
    if (!data) bad(what + " has no data");
    Array<float> copy(count + static_cast<size_t>(LANES));
    std::memcpy(copy.data(), data, count * sizeof(float));
    if (!model_.kernels->finite(copy.data(), static_cast<int64_t>(count)))
      throw Failure(MALMOI_NOT_FINITE, what + " holds NaN or infinity");
    model_.vectors.push_back(std::move(copy));
    return model_.vectors.back().data();
  }

  void check_finite(const std::string &what, const Matrix &m, int64_t experts) const {
    const size_t bytes = m.expert_bytes * static_cast<size_t>(experts);
    bool fine = true;
    if (m.kind == MALMOI_FLOAT32) {
      fine = model_.kernels->finite(reinterpret_cast<const float *>(m.data), static_cast<int64_t>(bytes / 4));
    } else {
      const auto *halves = reinterpret_cast<const uint16_t *>(m.data);
      uint16_t most = 0;  // without branches, so that the compiler takes many at once
      for (size_t i = 0; i < bytes / 2; ++i) {
        const uint16_t size = halves[i] & 0x7fff;
        most = size > most ? size : most;
      }
      fine = most < 0x7f80;
    }
    if (!fine) throw Failure(MALMOI_NOT_FINITE, what + " holds NaN or infinity");
  }

  Model &model_;
  std::map<std::pair<int32_t, int32_t>, const malmoi_tensor *> held_;
};

void read_feed_forward(Tensors &tensors, const malmoi_shape &s, Layer &layer, int64_t i) {
  const int64_t experts = s.experts ? s.experts : 1;
  if (s.experts) {
    layer.router = tensors.matrix(MALMOI_ROUTER, i, s.experts, s.width);
    if (layer.router.kind != MALMOI_FLOAT32) bad(Tensors::name(MALMOI_ROUTER, i) + " must be float32");
    tensors.bias(layer.router, s.router_bias, MALMOI_ROUTER_BIAS, i);
  }
  if (s.gated) {
    layer.gate = tensors.matrix(MALMOI_GATE, i, s.hidden, s.width, experts);
    tensors.bias(layer.gate, s.mlp_bias, MALMOI_GATE_BIAS, i, experts);
  }
  layer.up = tensors.matrix(MALMOI_UP, i, s.hidden, s.width, experts);
  tensors.bias(layer.up, s.mlp_bias, MALMOI_UP_BIAS, i, experts);
  layer.down = tensors.matrix(MALMOI_DOWN, i, s.width, s.hidden, experts);
  tensors.bias(layer.down, s.mlp_bias, MALMOI_DOWN_BIAS, i, experts);
}

void read_layer(Tensors &tensors, const Model &model, Layer &layer, int64_t i) {
  const malmoi_shape &s = model.shape;
  layer.window = s.windows[i];
  layer.first = tensors.norm(MALMOI_FIRST_NORM, i, s.width, s.layer_norm);
  layer.second = tensors.norm(MALMOI_SECOND_NORM, i, s.width, s.layer_norm);
  layer.query = tensors.matrix(MALMOI_QUERY, i, model.queries(), s.width);
  layer.key = tensors.matrix(MALMOI_KEY, i, model.shared(), s.width);
  layer.value = tensors.matrix(MALMOI_VALUE, i, model.shared(), s.width);
  layer.output = tensors.matrix(MALMOI_OUTPUT, i, s.width, model.queries());
  tensors.bias(layer.query, s.attention_bias, MALMOI_QUERY_BIAS, i);
  tensors.bias(layer.key, s.attention_bias, MALMOI_KEY_BIAS, i);
  tensors.bias(layer.value, s.attention_bias, MALMOI_VALUE_BIAS, i);
  tensors.bias(layer.output, s.attention_bias, MALMOI_OUTPUT_BIAS, i);
  if (s.qk_norm) {
    layer.query_norm = tensors.norm(MALMOI_QUERY_NORM, i, s.head_size, false);
    layer.key_norm = tensors.norm(MALMOI_KEY_NORM, i, s.head_size, false);
  }
  if (s.sinks) layer.sinks = tensors.vector(MALMOI_SINKS, i, s.heads);
  read_feed_forward(tensors, s, layer, i);
}

}  // namespace

void read_model(Model &model, const malmoi_shape &shape, const malmoi_tensor *tensors, int64_t count) {
  check_shape(shape);
  model.shape = shape;
  Tensors held(model, tensors, count);
  model.embedding = held.matrix(MALMOI_EMBEDDING, -1, shape.vocabulary, shape.width);
  model.head = shape.tied ? model.embedding : held.matrix(MALMOI_HEAD, -1, shape.vocabulary, shape.width);
  if (shape.rotary) model.frequencies = held.vector(MALMOI_FREQUENCIES, -1, shape.head_size / 2);
  else model.positions = held.vector(MALMOI_POSITIONS, -1, shape.positions * shape.width);
  if (!shape.post_norm) model.final_norm = held.norm(MALMOI_FINAL_NORM, -1, shape.width, shape.layer_norm);
  model.layers.resize(static_cast<size_t>(shape.layers));
  for (int64_t i = 0; i < shape.layers; ++i) read_layer(held, model, model.layers[static_cast<size_t>(i)], i);
  held.none_left();
  model.shape.windows = nullptr;  // the caller's memory
}

}  // namespace malmoi
