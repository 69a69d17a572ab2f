// The steps between the matrix products of training, each in one pass over memory: norm, turned heads, gate, softmax,
// cross-entropy, forward and backward. `fused.py` calls them; without a compiler it does the same with torch's own
// operations, more slowly.
//
// Numbers come in as bfloat16 or float32, are worked on in float32 and rounded once. Every sum runs in an order that
// depends on the sizes alone, never on the number of threads. Plain loops: the compiler turns them into the vector
// instructions of each kind of processor (target_clones) and the loader picks the kind at run time.
//
// N rows, D row length, B batch, T tokens, H heads, E head size

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(_WIN32)
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C" __attribute__((visibility("default")))
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#if defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

struct bf16 {
    uint16_t bits;
};

INLINE float wide(float x) { return x; }
INLINE float wide(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
INLINE void narrow(float x, float *out) { *out = x; }
INLINE void narrow(float x, bf16 *out) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to the nearest, ties to even
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    out->bits = uint16_t(nan ? 0x7fc0 : rounded);
}

// e^x to about one unit in the last place: x = n ln 2 + r, 2^n by its exponent bits, e^r by its series.
INLINE float exponential(float x) {
    float bounded = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = std::nearbyint(bounded * 1.44269504f);
    float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    float series = 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return x < -87.0f ? 0.0f : series * power;
}

// --- work on several threads: those of the OpenMP library that torch has loaded -------------------------------------

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);  // GOMP_parallel
static Parallel parallel = nullptr;

// Raised with every change of a signature below; kernels.py refuses a library of another version.
API int malmoi_fused_version() { return 2; }

API void malmoi_fused_threads(void *start) { parallel = Parallel(start); }

typedef void (*Work)(const void *job, int64_t begin, int64_t end);
struct Shares {
    Work work;
    const void *job;
    int64_t items, piece;
    std::atomic<int64_t> next;
};

// Whoever comes takes the next share, however many threads the library sends.
static void take_shares(void *data) {
    Shares &shares = *static_cast<Shares *>(data);
    for (;;) {
        int64_t begin = shares.next.fetch_add(shares.piece), end = begin + shares.piece;
        if (begin >= shares.items) return;
        shares.work(shares.job, begin, end < shares.items ? end : shares.items);
    }
}

// `items` pieces of work of `cost` numbers each.
static void run(Work work, const void *job, int64_t items, int64_t cost, int threads) {
    if (threads <= 1 || parallel == nullptr || items < 2 || items * cost < 32768) {
        work(job, 0, items);
        return;
    }
    Shares shares{work, job, items, (items + threads - 1) / threads, {0}};
    parallel(take_shares, &shares, unsigned(threads), 0);
}

// --- root-mean-square norm ------------------------------------------------------------------------------------------

constexpr int64_t ROWS = 64;  // whose share of the weight's gradient is summed before the shares are

struct Norm {
    const void *x, *weight, *gradient;
    void *out;
    float *scale, *shares;
    int64_t rows, size;
    float eps;
};

template <class T> INLINE void norm_rows(const Norm &job, int64_t begin, int64_t end) {
    const T *weight = (const T *)job.weight;
    for (int64_t row = begin; row < end; row++) {
        const T *__restrict x = (const T *)job.x + row * job.size;
        T *__restrict out = (T *)job.out + row * job.size;
        float sum = 0;
        for (int64_t i = 0; i < job.size; i++) sum += wide(x[i]) * wide(x[i]);
        float scale = 1.0f / std::sqrt(sum / float(job.size) + job.eps);
        job.scale[row] = scale;
        for (int64_t i = 0; i < job.size; i++) narrow(wide(x[i]) * scale * wide(weight[i]), out + i);
    }
}
CLONES static void norm_bf16(const void *job, int64_t b, int64_t e) { norm_rows<bf16>(*(const Norm *)job, b, e); }
CLONES static void norm_f32(const void *job, int64_t b, int64_t e) { norm_rows<float>(*(const Norm *)job, b, e); }

// Items are groups of ROWS rows.
template <class T> INLINE void norm_back(const Norm &job, int64_t begin, int64_t end) {
    const T *weight = (const T *)job.weight;
    for (int64_t group = begin; group < end; group++) {
        float *__restrict share = job.shares + group * job.size;
        for (int64_t i = 0; i < job.size; i++) share[i] = 0;
        int64_t last = (group + 1) * ROWS < job.rows ? (group + 1) * ROWS : job.rows;
        for (int64_t row = group * ROWS; row < last; row++) {
            const T *x = (const T *)job.x + row * job.size;
            const T *gradient = (const T *)job.gradient + row * job.size;
            T *__restrict out = (T *)job.out + row * job.size;
            float scale = job.scale[row], along = 0;
            for (int64_t i = 0; i < job.size; i++) {
                float product = wide(gradient[i]) * wide(x[i]);
                share[i] += product * scale;
                along += product * wide(weight[i]);
            }
            along *= scale * scale / float(job.size);  // the part that would only change the length
            for (int64_t i = 0; i < job.size; i++)
                narrow(scale * (wide(gradient[i]) * wide(weight[i]) - wide(x[i]) * along), out + i);
        }
    }
}
CLONES static void norm_back_bf16(const void *job, int64_t b, int64_t e) { norm_back<bf16>(*(const Norm *)job, b, e); }
CLONES static void norm_back_f32(const void *job, int64_t b, int64_t e) { norm_back<float>(*(const Norm *)job, b, e); }

CLONES static void add_shares(const float *shares, int64_t groups, int64_t size, float *out) {
    for (int64_t i = 0; i < size; i++) out[i] = 0;
    for (int64_t group = 0; group < groups; group++)
        for (int64_t i = 0; i < size; i++) out[i] += shares[group * size + i];
}

API void malmoi_norm(int half, const void *x, const void *weight, void *out, float *scale, int64_t rows, int64_t size,
                     float eps, int threads) {
    Norm job{x, weight, nullptr, out, scale, nullptr, rows, size, eps};
    run(half ? norm_bf16 : norm_f32, &job, rows, size, threads);
}

// `shares` is scratch of ceil(rows / 64) * size numbers.
API void malmoi_norm_back(int half, const void *gradient, const void *x, const void *weight, const float *scale,
                          void *out, float *weight_gradient, float *shares, int64_t rows, int64_t size, int threads) {
    Norm job{x, weight, gradient, out, const_cast<float *>(scale), shares, rows, size, 0};
    int64_t groups = (rows + ROWS - 1) / ROWS;
    run(half ? norm_back_bf16 : norm_back_f32, &job, groups, ROWS * size, threads);
    add_shares(shares, groups, size, weight_gradient);
}

// --- heads: (B, T, H, E) as projected -> (B, H, T, E), normed (with a weight) and turned (with cos and sin) ---------

struct Heads {
    const void *x, *weight, *cos, *sin, *gradient;
    void *out;
    float *scale, *shares;
    int64_t batch, tokens, heads, size, stride, tables;  // stride: between tokens in x; tables: 1 or B of cos and sin
    float eps;
};

// SIZE is the head size where it is a usual one: loops of a known length become straight vector code.
template <class T, int64_t SIZE> INLINE void heads_rows(const Heads &job, int64_t begin, int64_t end) {
    const int64_t E = SIZE ? SIZE : job.size, half = E / 2;
    const T *weight = (const T *)job.weight;
    float row[1024];
    for (int64_t item = begin; item < end; item++) {  // one (batch, token)
        int64_t b = item / job.tokens, t = item % job.tokens;
        int64_t place = (job.tables == 1 ? t : item) * E;
        const T *cos = (const T *)job.cos + place, *sin = (const T *)job.sin + place;
        for (int64_t h = 0; h < job.heads; h++) {
            const T *__restrict x = (const T *)job.x + item * job.stride + h * E;
            T *__restrict out = (T *)job.out + ((b * job.heads + h) * job.tokens + t) * E;
            if (weight) {
                float sum = 0;
                for (int64_t i = 0; i < E; i++) sum += wide(x[i]) * wide(x[i]);
                float scale = 1.0f / std::sqrt(sum / float(E) + job.eps);
                job.scale[item * job.heads + h] = scale;
                for (int64_t i = 0; i < E; i++) row[i] = wide(x[i]) * scale * wide(weight[i]);
            } else {
                for (int64_t i = 0; i < E; i++) row[i] = wide(x[i]);
            }
            if (job.cos) {
                for (int64_t i = 0; i < half; i++) {
                    narrow(row[i] * wide(cos[i]) + row[i + half] * wide(sin[i]), out + i);
                    narrow(row[i + half] * wide(cos[i + half]) + row[i] * wide(sin[i + half]), out + i + half);
                }
            } else {
                for (int64_t i = 0; i < E; i++) narrow(row[i], out + i);
            }
        }
    }
}
CLONES static void heads_bf16(const void *data, int64_t b, int64_t e) {
    const Heads &job = *(const Heads *)data;
    switch (job.size) {
    case 32: return heads_rows<bf16, 32>(job, b, e);
    case 64: return heads_rows<bf16, 64>(job, b, e);
    case 128: return heads_rows<bf16, 128>(job, b, e);
    default: return heads_rows<bf16, 0>(job, b, e);
    }
}
CLONES static void heads_f32(const void *data, int64_t b, int64_t e) {
    const Heads &job = *(const Heads *)data;
    switch (job.size) {
    case 32: return heads_rows<float, 32>(job, b, e);
    case 64: return heads_rows<float, 64>(job, b, e);
    case 128: return heads_rows<float, 128>(job, b, e);
    default: return heads_rows<float, 0>(job, b, e);
    }
}

// Items are groups of ROWS (batch, token) places; `out` is contiguous (B, T, H, E).
template <class T, int64_t SIZE> INLINE void heads_back(const Heads &job, int64_t begin, int64_t end) {
    const int64_t E = SIZE ? SIZE : job.size, half = E / 2, places = job.batch * job.tokens;
    const T *weight = (const T *)job.weight;
    float row[1024];
    for (int64_t group = begin; group < end; group++) {
        float *share = weight ? job.shares + group * E : nullptr;
        if (share)
            for (int64_t i = 0; i < E; i++) share[i] = 0;
        int64_t last = (group + 1) * ROWS < places ? (group + 1) * ROWS : places;
        for (int64_t item = group * ROWS; item < last; item++) {
            int64_t b = item / job.tokens, t = item % job.tokens;
            int64_t place = (job.tables == 1 ? t : item) * E;
            const T *cos = (const T *)job.cos + place, *sin = (const T *)job.sin + place;
            for (int64_t h = 0; h < job.heads; h++) {
                const T *gradient = (const T *)job.gradient + ((b * job.heads + h) * job.tokens + t) * E;
                T *__restrict out = (T *)job.out + (item * job.heads + h) * E;
                if (job.cos) {
                    for (int64_t i = 0; i < half; i++) {
                        float low = wide(gradient[i]), high = wide(gradient[i + half]);
                        row[i] = low * wide(cos[i]) + high * wide(sin[i + half]);
                        row[i + half] = high * wide(cos[i + half]) + low * wide(sin[i]);
                    }
                } else {
                    for (int64_t i = 0; i < E; i++) row[i] = wide(gradient[i]);
                }
                if (!weight) {
                    for (int64_t i = 0; i < E; i++) narrow(row[i], out + i);
                    continue;
                }
                const T *x = (const T *)job.x + item * job.stride + h * E;
                float scale = job.scale[item * job.heads + h], along = 0;
                for (int64_t i = 0; i < E; i++) {
                    float product = row[i] * wide(x[i]);
                    share[i] += product * scale;
                    along += product * wide(weight[i]);
                }
                along *= scale * scale / float(E);
                for (int64_t i = 0; i < E; i++) narrow(scale * (row[i] * wide(weight[i]) - wide(x[i]) * along), out + i);
            }
        }
    }
}
CLONES static void heads_back_bf16(const void *data, int64_t b, int64_t e) {
    const Heads &job = *(const Heads *)data;
    switch (job.size) {
    case 32: return heads_back<bf16, 32>(job, b, e);
    case 64: return heads_back<bf16, 64>(job, b, e);
    case 128: return heads_back<bf16, 128>(job, b, e);
    default: return heads_back<bf16, 0>(job, b, e);
    }
}
CLONES static void heads_back_f32(const void *data, int64_t b, int64_t e) {
    const Heads &job = *(const Heads *)data;
    switch (job.size) {
    case 32: return heads_back<float, 32>(job, b, e);
    case 64: return heads_back<float, 64>(job, b, e);
    case 128: return heads_back<float, 128>(job, b, e);
    default: return heads_back<float, 0>(job, b, e);
    }
}

// E even and at most 1024; weight, cos and sin may be null.
API void malmoi_heads(int half, const void *x, int64_t stride, const void *weight, const void *cos, const void *sin,
                      int64_t tables, void *out, float *scale, int64_t batch, int64_t tokens, int64_t heads,
                      int64_t size, float eps, int threads) {
    Heads job{x, weight, cos, sin, nullptr, out, scale, nullptr, batch, tokens, heads, size, stride, tables, eps};
    run(half ? heads_bf16 : heads_f32, &job, batch * tokens, heads * size, threads);
}

API void malmoi_heads_back(int half, const void *gradient, const void *x, int64_t stride, const void *weight,
                           const void *cos, const void *sin, int64_t tables, const float *scale, void *out,
                           float *weight_gradient, float *shares, int64_t batch, int64_t tokens, int64_t heads,
                           int64_t size, int threads) {
    Heads job{x,     weight, cos,    sin,   gradient, out,    const_cast<float *>(scale), shares,
              batch, tokens, heads, size, stride,   tables, 0};
    int64_t groups = (batch * tokens + ROWS - 1) / ROWS;
    run(half ? heads_back_bf16 : heads_back_f32, &job, groups, ROWS * heads * size, threads);
    if (weight) add_shares(shares, groups, size, weight_gradient);
}

// --- gate: silu(gate) * up ------------------------------------------------------------------------------------------

struct Gate {
    const void *gate, *up, *gradient;
    void *out, *other;
};

template <class T> INLINE void gate_pieces(const Gate &job, int64_t begin, int64_t end) {
    const T *gate = (const T *)job.gate, *up = (const T *)job.up;
    T *out = (T *)job.out;
    for (int64_t i = begin; i < end; i++) {
        float g = wide(gate[i]);
        narrow(g / (1.0f + exponential(-g)) * wide(up[i]), out + i);
    }
}
CLONES static void gate_bf16(const void *job, int64_t b, int64_t e) { gate_pieces<bf16>(*(const Gate *)job, b, e); }
CLONES static void gate_f32(const void *job, int64_t b, int64_t e) { gate_pieces<float>(*(const Gate *)job, b, e); }

template <class T> INLINE void gate_back(const Gate &job, int64_t begin, int64_t end) {
    const T *gate = (const T *)job.gate, *up = (const T *)job.up, *gradient = (const T *)job.gradient;
    T *to_gate = (T *)job.out, *to_up = (T *)job.other;
    for (int64_t i = begin; i < end; i++) {
        float g = wide(gate[i]), slope = wide(gradient[i]);
        float open = 1.0f / (1.0f + exponential(-g));
        narrow(slope * wide(up[i]) * open * (1.0f + g * (1.0f - open)), to_gate + i);
        narrow(slope * g * open, to_up + i);
    }
}
CLONES static void gate_back_bf16(const void *job, int64_t b, int64_t e) { gate_back<bf16>(*(const Gate *)job, b, e); }
CLONES static void gate_back_f32(const void *job, int64_t b, int64_t e) { gate_back<float>(*(const Gate *)job, b, e); }

API void malmoi_gate(int half, const void *gate, const void *up, void *out, int64_t count, int threads) {
    Gate job{gate, up, nullptr, out, nullptr};
    run(half ? gate_bf16 : gate_f32, &job, count, 4, threads);
}

API void malmoi_gate_back(int half, const void *gradient, const void *gate, const void *up, void *to_gate, void *to_up,
                          int64_t count, int threads) {
    Gate job{gate, up, gradient, to_gate, to_up};
    run(half ? gate_back_bf16 : gate_back_f32, &job, count, 4, threads);
}

// --- attention's softmax, in place: (B * H, R, C) scores of the queries first, first + 1 ... over the first C keys, an
// additive mask (1 or B, T, T), nothing after the diagonal

struct Softmax {
    void *scores;
    const void *mask, *weights;
    int64_t rows, columns, first, tokens, heads, masks;
    float scale;
};

template <class T> INLINE void softmax_rows(const Softmax &job, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {  // one row of one head
        int64_t token = job.first + item % job.rows, matrix = item / job.rows, visible = token + 1;
        T *row = (T *)job.scores + item * job.columns;
        const T *mask = (const T *)job.mask + ((job.masks == 1 ? 0 : matrix / job.heads) * job.tokens + token) * job.tokens;
        float highest = -INFINITY, sum = 0;
        float held[4096];
        for (int64_t i = 0; i < visible; i++) {
            float score = wide(row[i]) * job.scale + wide(mask[i]);
            held[i] = score;
            highest = score > highest ? score : highest;
        }
        for (int64_t i = 0; i < visible; i++) {
            held[i] = exponential(held[i] - highest);
            sum += held[i];
        }
        float share = 1.0f / sum;
        for (int64_t i = 0; i < visible; i++) narrow(held[i] * share, row + i);
        for (int64_t i = visible; i < job.columns; i++) narrow(0.0f, row + i);
    }
}
CLONES static void softmax_bf16(const void *job, int64_t b, int64_t e) { softmax_rows<bf16>(*(const Softmax *)job, b, e); }
CLONES static void softmax_f32(const void *job, int64_t b, int64_t e) { softmax_rows<float>(*(const Softmax *)job, b, e); }

template <class T> INLINE void softmax_back(const Softmax &job, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
        int64_t visible = job.first + item % job.rows + 1;
        T *row = (T *)job.scores + item * job.columns;
        const T *weights = (const T *)job.weights + item * job.columns;
        float mean = 0;
        for (int64_t i = 0; i < visible; i++) mean += wide(row[i]) * wide(weights[i]);
        for (int64_t i = 0; i < visible; i++) narrow(job.scale * wide(weights[i]) * (wide(row[i]) - mean), row + i);
        for (int64_t i = visible; i < job.columns; i++) narrow(0.0f, row + i);
    }
}
CLONES static void softmax_back_bf16(const void *job, int64_t b, int64_t e) { softmax_back<bf16>(*(const Softmax *)job, b, e); }
CLONES static void softmax_back_f32(const void *job, int64_t b, int64_t e) { softmax_back<float>(*(const Softmax *)job, b, e); }

// C at most 4096.
API void malmoi_softmax(int half, void *scores, const void *mask, int64_t masks, int64_t matrices, int64_t heads,
                        int64_t rows, int64_t columns, int64_t first, int64_t tokens, float scale, int threads) {
    Softmax job{scores, mask, nullptr, rows, columns, first, tokens, heads, masks, scale};
    run(half ? softmax_bf16 : softmax_f32, &job, matrices * rows, columns, threads);
}

// The gradient of the weights becomes that of the products of queries and keys, in place.
API void malmoi_softmax_back(int half, void *gradient, const void *weights, int64_t matrices, int64_t rows,
                             int64_t columns, int64_t first, float scale, int threads) {
    Softmax job{gradient, nullptr, weights, rows, columns, first, 0, 1, 1, scale};
    run(half ? softmax_back_bf16 : softmax_back_f32, &job, matrices * rows, columns, threads);
}

// --- cross-entropy, in place: logits (N, V) become the gradient of the summed loss ----------------------------------

struct Surprise {
    void *logits;
    const int64_t *targets;
    float *losses;
    int64_t size;
    float smoothing;
};

template <class T> INLINE void surprise_rows(const Surprise &job, int64_t begin, int64_t end) {
    const float spread = job.smoothing / float(job.size);
    static thread_local std::vector<float> held;  // the exponentials of a row
    if (int64_t(held.size()) < job.size) held.resize(job.size);
    float *__restrict powers = held.data();
    for (int64_t row = begin; row < end; row++) {
        T *logits = (T *)job.logits + row * job.size;
        int64_t target = job.targets[row];
        float highest = -INFINITY, sum = 0;
        for (int64_t i = 0; i < job.size; i++) {
            float logit = wide(logits[i]);
            highest = logit > highest ? logit : highest;
        }
        for (int64_t i = 0; i < job.size; i++) {
            powers[i] = exponential(wide(logits[i]) - highest);
            sum += powers[i];
        }
        float wanted = wide(logits[target]), share = 1.0f / sum;
        job.losses[row] = std::log(sum) + highest - wanted;
        float chance = powers[target] * share;
        for (int64_t i = 0; i < job.size; i++) narrow(powers[i] * share - spread, logits + i);
        narrow(chance - spread - (1.0f - job.smoothing), logits + target);
    }
}
CLONES static void surprise_bf16(const void *job, int64_t b, int64_t e) { surprise_rows<bf16>(*(const Surprise *)job, b, e); }
CLONES static void surprise_f32(const void *job, int64_t b, int64_t e) { surprise_rows<float>(*(const Surprise *)job, b, e); }

// Every target must be in [0, V).
API void malmoi_surprise(int half, void *logits, const int64_t *targets, float *losses, int64_t rows, int64_t size,
                         float smoothing, int threads) {
    Surprise job{logits, targets, losses, size, smoothing};
    run(half ? surprise_bf16 : surprise_f32, &job, rows, size, threads);
}
