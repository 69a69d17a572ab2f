// Attention over a cache of blocks. A part of kernels.inl.

// The scores of Q queries with the 32 keys of each of B blocks: lanes are positions, so that no sum goes across lanes.
// One query alone would wait for each of its additions; four blocks side by side keep the adders busy.
template <int Q, int B> inline void scores_of_blocks(const Queries &q, int64_t begin, int64_t block) {
  const uint16_t *keys[B];
  F left[Q][B], right[Q][B];
  for (int n = 0; n < B; ++n) {
    keys[n] = q.cache + q.table[block / BLOCK + n] * q.block_stride;
    for (int i = 0; i < Q; ++i) left[i][n] = right[i][n] = zero();
  }
  for (int64_t d = 0; d < q.head_size; ++d)
    for (int n = 0; n < B; ++n) {
      const F a = load_half(keys[n] + d * BLOCK), b = load_half(keys[n] + d * BLOCK + LANES);
      for (int i = 0; i < Q; ++i) {
        const F query = set1(q.query[i][d]);
        left[i][n] = fma(a, query, left[i][n]);
        right[i][n] = fma(b, query, right[i][n]);
      }
    }
  for (int i = 0; i < Q; ++i)
    for (int n = 0; n < B; ++n) {
      float *place = q.scores + i * q.span + block - begin + n * BLOCK;
      store(place, mul(left[i][n], set1(q.scale)));
      store(place + LANES, mul(right[i][n], set1(q.scale)));
    }
}

// Scores to weights, zero for what may not be seen; returns what the weighted sum is to be multiplied by. Chunks of
// sixteen begin at multiples of sixteen, so that sums do not depend on where the tile begins.
inline float softmax(const Queries &q, int i, int64_t begin, int64_t end) {
  float *scores = q.scores + i * q.span;
  F most = set1(-3.0e38f);
  for (int64_t p = begin; p < end; p += LANES) {
    const int low = static_cast<int>(q.begin[i] - p > 0 ? (q.begin[i] - p < LANES ? q.begin[i] - p : LANES) : 0);
    const int high = static_cast<int>(q.end[i] - p > 0 ? (q.end[i] - p < LANES ? q.end[i] - p : LANES) : 0);
    most = max(within(load(scores + p - begin), low, high, set1(-3.0e38f)), most);
  }
  float peak = largest(most);
  if (q.sinks && q.sink[i] > peak) peak = q.sink[i];
  F total = zero();
  for (int64_t p = begin; p < end; p += LANES) {
    const int low = static_cast<int>(q.begin[i] - p > 0 ? (q.begin[i] - p < LANES ? q.begin[i] - p : LANES) : 0);
    const int high = static_cast<int>(q.end[i] - p > 0 ? (q.end[i] - p < LANES ? q.end[i] - p : LANES) : 0);
    const F weight = within(exponential(sub(load(scores + p - begin), set1(peak))), low, high, zero());
    total = add(total, weight);
    store(scores + p - begin, weight);
  }
  float all = sum(total);
  if (q.sinks) {
    float nothing[LANES];
    store(nothing, exponential(set1(q.sink[i] - peak)));
    all += nothing[0];
  }
  return 1.0f / all;
}

// The weighted sum of V vectors of sixteen of each value, from dimension `d` on: lanes are dimensions.
template <int Q, int V>
inline void gather_values(const Queries &q, int64_t begin, int64_t end, int64_t d, const float *factor) {
  const int64_t width = padded(q.head_size, LANES);
  F total[Q][V];
  for (int i = 0; i < Q; ++i)
    for (int v = 0; v < V; ++v) total[i][v] = zero();
  for (int64_t block = begin; block < end; block += BLOCK) {
    const uint16_t *values = q.cache + q.table[block / BLOCK] * q.block_stride + q.head_size * BLOCK + d;
    for (int64_t p = 0; p < BLOCK; ++p, values += width) {
      F value[V];
      for (int v = 0; v < V; ++v) value[v] = load_half(values + v * LANES);
      for (int i = 0; i < Q; ++i) {
        const F weight = set1(q.scores[i * q.span + block - begin + p]);
        for (int v = 0; v < V; ++v) total[i][v] = fma(value[v], weight, total[i][v]);
      }
    }
  }
  for (int i = 0; i < Q; ++i)
    for (int v = 0; v < V; ++v) {
      const int64_t from = d + v * LANES;
      store_n(q.out[i] + from, mul(total[i][v], set1(factor[i])), rest(q.head_size, from));
    }
}

template <int Q> inline void attend_to(const Queries &q) {
  int64_t begin = q.begin[0], end = q.end[0];
  for (int i = 1; i < Q; ++i) {
    begin = q.begin[i] < begin ? q.begin[i] : begin;
    end = q.end[i] > end ? q.end[i] : end;
  }
  begin = begin / BLOCK * BLOCK, end = padded(end, BLOCK);
  constexpr int64_t B = Q == 1 ? 4 : 1;
  int64_t block = begin;
  for (; block + B * BLOCK <= end; block += B * BLOCK) scores_of_blocks<Q, B>(q, begin, block);
  for (; block < end; block += BLOCK) scores_of_blocks<Q, 1>(q, begin, block);
  float factor[Q];
  for (int i = 0; i < Q; ++i) factor[i] = softmax(q, i, begin, end);
  int64_t d = 0;
  for (; d + 4 * LANES <= padded(q.head_size, LANES); d += 4 * LANES) gather_values<Q, 4>(q, begin, end, d, factor);
  for (; d < q.head_size; d += LANES) gather_values<Q, 1>(q, begin, end, d, factor);
}

void attend(const Queries &q) {
  switch (q.count) {
    case 1: return attend_to<1>(q);
    case 2: return attend_to<2>(q);
    case 3: return attend_to<3>(q);
    default: return attend_to<4>(q);
  }
}
