// Sixteen numbers at a time, in plain C++: what the other instruction sets are measured against, bit for bit.
//
// Every set offers the same few operations on F (16 floats), I (16 int32) and Bytes (64 bytes). Each is one correctly
// rounded IEEE operation a lane, or exact, and sums over lanes are taken in one fixed order; therefore all sets give
// the same bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace scalar {

struct F { float v[16]; };
struct I { int32_t v[16]; };
struct Bytes { uint8_t v[64]; };

constexpr int ROWS = 2;         // rows of a tile: as many as the registers hold
constexpr int PAIRED = ROWS + 1;  // never: there are too few registers
constexpr int BYTE_OFFSET = 128;  // what `dot8` counts too much in every weight

template <class Make> inline F each(Make make) {
  F out;
  for (int i = 0; i < 16; ++i) out.v[i] = make(i);
  return out;
}

inline F zero() { return each([](int) { return 0.0f; }); }
inline F set1(float a) { return each([=](int) { return a; }); }
inline F load(const float *p) { return each([=](int i) { return p[i]; }); }
inline F load_n(const float *p, int n) { return each([=](int i) { return i < n ? p[i] : 0.0f; }); }
inline void store(float *p, F a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store_n(float *p, F a, int n) { std::memcpy(p, a.v, sizeof(float) * static_cast<size_t>(n < 16 ? n : 16)); }
inline F add(F a, F b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline F sub(F a, F b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline F mul(F a, F b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline F div(F a, F b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline F fma(F a, F b, F c) { return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
// Where the first is no number, the second: so that bounding a NaN gives the bound.
inline F max(F a, F b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline F min(F a, F b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline F abs(F a) { return each([&](int i) { return std::fabs(a.v[i]); }); }
inline F nearest(F a) { return each([&](int i) { return std::nearbyint(a.v[i]); }); }

// 2^n for whole n from -126 to 127.
inline F power(F n) {
  return each([&](int i) {
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
  });
}

// The lanes from `low` to before `high`; `other` elsewhere.
inline F within(F a, int low, int high, F other) {
  return each([&](int i) { return i >= low && i < high ? a.v[i] : other.v[i]; });
}

inline float sum(F a) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}

inline float largest(F a) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  return a.v[0];
}

inline float float_of_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = h & 0x7fffu;
  uint32_t bits;
  if (rest >= 0x7c00u) {
    bits = 0x7f800000u | (rest & 0x3ffu) << 13 | (rest > 0x7c00u ? 0x400000u : 0);
  } else if (rest >= 0x400u) {
    bits = (rest << 13) + ((127u - 15u) << 23);
  } else {
    const float small = static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &small, 4);
  }
  bits |= sign;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

// Rounded to the nearest, ties to even; the number is within the range of a half.
inline uint16_t half_of_float(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest < 0x38800000u) {  // below 2^-14: counted in 2^-24
    float magnitude;
    std::memcpy(&magnitude, &rest, 4);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(magnitude * 16777216.0f)));
  }
  const uint32_t rounded = rest + 0xfffu + (rest >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline F load_half(const uint16_t *p) { return each([=](int i) { return float_of_half(p[i]); }); }
inline void store_half(uint16_t *p, F a) {
  for (int i = 0; i < 16; ++i) p[i] = half_of_float(a.v[i]);
}

// 32 bfloat16 as pairs: the first and the second of each.
inline void load_pairs(const uint8_t *p, F &first, F &second) {
  for (int i = 0; i < 16; ++i) {
    uint32_t pair;
    std::memcpy(&pair, p + 4 * i, 4);
    const uint32_t low = pair << 16, high = pair & 0xffff0000u;
    std::memcpy(&first.v[i], &low, 4);
    std::memcpy(&second.v[i], &high, 4);
  }
}

inline I iset1(int32_t a) {
  I out;
  for (int &v : out.v) v = a;
  return out;
}
inline I iadd(I a, I b) {
  for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
  return a;
}
inline F to_float(I a) { return each([&](int i) { return static_cast<float>(a.v[i]); }); }

// 16 numbers from -127 to 127, rounded to bytes; returns their sum.
inline int32_t store_bytes(int8_t *p, F a) {
  int32_t total = 0;
  for (int i = 0; i < 16; ++i) {
    const float rounded = std::nearbyint(a.v[i]);
    p[i] = static_cast<int8_t>(rounded > -128.0f && rounded < 128.0f ? rounded : 0.0f);
    total += p[i];
  }
  return total;
}

inline Bytes load_bytes(const uint8_t *p) {
  Bytes out;
  std::memcpy(out.v, p, 64);
  return out;
}
inline Bytes low_halves(Bytes a) {
  for (uint8_t &v : a.v) v &= 15;
  return a;
}
inline Bytes high_halves(Bytes a) {
  for (uint8_t &v : a.v) v >>= 4;
  return a;
}

// Adds to each lane the product of its four bytes with the four activations at x.
inline I dot4(I sum, Bytes w, const int8_t *x) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j) sum.v[i] += static_cast<int32_t>(w.v[4 * i + j]) * x[j];
  return sum;
}
// `low` meets four activations, `high` the next four; `first` and `second` may be the same sum.
inline void dot4_twice(I &first, I &second, Bytes low, Bytes high, const int8_t *x) {
  first = dot4(first, low, x);
  second = dot4(second, high, x + 4);
}
inline Bytes prepared8(Bytes w) { return w; }  // once for all rows of a tile
inline I dot8(I sum, Bytes w, const int8_t *x) { return dot4(sum, w, x); }

}  // namespace scalar
