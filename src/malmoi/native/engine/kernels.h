// What the kernels of every instruction set are given, and the table through which one set is called.
#pragma once
#include <cstddef>
#include <cstdint>

namespace malmoi {

constexpr int64_t LANES = 16;  // outputs in a block of weights
constexpr int64_t GROUP = 64;  // inputs that share a scale
constexpr int64_t BLOCK = 32;  // positions in a block of the cache
constexpr int MOST_ROWS = 8;   // of a tile, in any set
constexpr int QUERIES = 4;     // that read a block of keys together
constexpr int64_t PANEL = 128;  // rows whose activations stay in the second-level cache

constexpr int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A weight matrix (or E of them, of experts) as it lies in memory; layouts: malmoi.h.
struct Matrix {
  int kind = 0;
  int64_t outputs = 0, inputs = 0, blocks = 0, groups = 0;
  const uint8_t *data = nullptr;
  size_t block_bytes = 0, expert_bytes = 0;
  const void *scales = nullptr;
  size_t expert_scales = 0;       // in numbers
  const float *bias = nullptr;    // [E][blocks * LANES], or none
};

// Rows of activations: as floats, and where the weights are whole numbers also as bytes with a scale a group.
struct Rows {
  float *x = nullptr;
  int64_t stride = 0;
  int8_t *bytes = nullptr;
  int64_t byte_stride = 0;
  float *scales = nullptr;
  int32_t *sums = nullptr;  // of each group's bytes
  int64_t group_stride = 0;
};

// Which rows meet which blocks of outputs. Row i reads input row `from[i]` and writes output row `to[i]`; none: i.
struct Work {
  const int32_t *from = nullptr, *to = nullptr;
  int64_t rows = 0, expert = 0, first = 0, last = 0;
};

struct Norm {
  const float *weight = nullptr, *bias = nullptr;
  int64_t size = 0;
  float eps = 0;
  bool layer = false;  // LayerNorm, not RMSNorm
};

// Some queries of one key/value head and one sequence, at most QUERIES.
struct Queries {
  int count = 0;
  const float *query[QUERIES] = {};
  float *out[QUERIES] = {};
  float sink[QUERIES] = {};
  int64_t begin[QUERIES] = {}, end[QUERIES] = {};  // the positions that each may see
  bool sinks = false;
  int64_t head_size = 0;
  float scale = 0;
  const uint16_t *cache = nullptr;  // of this layer and head, in block 0
  size_t block_stride = 0;          // in halves
  const int32_t *table = nullptr;
  float *scores = nullptr;  // [QUERIES][span]
  int64_t span = 0;
};

struct Kernels {
  const char *name;
  void (*embed)(const Matrix &table, int64_t row, float *out);
  bool (*norm)(const Norm &, const float *x, float *out);  // false: not finite
  bool (*quantise)(const Rows &, int64_t row, int64_t to, int64_t size);  // the bytes of row `to`
  void (*linear)(const Matrix &, const Rows &in, const Work &, float *out, int64_t stride, bool add);
  void (*feed)(const Matrix *gate, const Matrix &up, const Rows &in, const Work &, float *out, int64_t stride,
               int activation, float limit);
  void (*rotate)(float *head, const float *cosine, const float *sine, int64_t half);
  void (*keep_key)(uint16_t *keys, const float *key, int64_t size, int64_t place);
  void (*keep_value)(uint16_t *values, const float *value, int64_t size, int64_t place);
  void (*attend)(const Queries &);
  void (*exponentials)(float *x, int64_t size, float shift);  // x becomes exp(x - shift)
  void (*gather)(float *out, const float *y, float weight, int64_t size);  // out += weight * y
  bool (*finite)(const float *x, int64_t size);
};

// One for each set that was built; null where the CPU cannot run it is decided by cpu.cpp.
extern const Kernels scalar_kernels;
#if defined(MALMOI_X86)
extern const Kernels avx2_kernels, avx512_kernels;
#endif
#if defined(MALMOI_ARM)
extern const Kernels neon_kernels, dotprod_kernels;
#endif

}  // namespace malmoi
