// Sixteen numbers in four NEON registers (64-bit ARM). See simd_scalar.h.
//
// Included twice: with the dot product instructions of ARMv8.2 (namespace dotprod) and without (namespace neon).
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#if defined(__ARM_FEATURE_DOTPROD)
namespace dotprod {
#else
namespace neon {
#endif

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
struct Bytes { uint8x16_t v[4]; };

constexpr int ROWS = 4;
constexpr int PAIRED = ROWS + 1;  // never: there are too few registers
constexpr int BYTE_OFFSET = 0;

template <class Make> inline F each(Make make) { return {{make(0), make(1), make(2), make(3)}}; }

inline F zero() { return each([](int) { return vdupq_n_f32(0); }); }
inline F set1(float a) { return each([=](int) { return vdupq_n_f32(a); }); }
inline F load(const float *p) { return each([=](int i) { return vld1q_f32(p + 4 * i); }); }
inline void store(float *p, F a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline F load_n(const float *p, int n) {
  float whole[16] = {};
  std::memcpy(whole, p, sizeof(float) * static_cast<size_t>(n < 16 ? n : 16));
  return load(whole);
}
inline void store_n(float *p, F a, int n) {
  float whole[16];
  store(whole, a);
  std::memcpy(p, whole, sizeof(float) * static_cast<size_t>(n < 16 ? n : 16));
}
inline F add(F a, F b) { return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
inline F sub(F a, F b) { return each([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
inline F mul(F a, F b) { return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
inline F div(F a, F b) { return each([&](int i) { return vdivq_f32(a.v[i], b.v[i]); }); }
inline F fma(F a, F b, F c) { return each([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); }); }
inline F max(F a, F b) {
  return each([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F min(F a, F b) {
  return each([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F abs(F a) { return each([&](int i) { return vabsq_f32(a.v[i]); }); }
inline F nearest(F a) { return each([&](int i) { return vrndnq_f32(a.v[i]); }); }
inline F power(F n) {
  return each([&](int i) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23));
  });
}
inline F within(F a, int low, int high, F other) {
  static const int32_t lanes[4] = {0, 1, 2, 3};
  return each([&](int i) {
    const int32x4_t lane = vaddq_s32(vld1q_s32(lanes), vdupq_n_s32(4 * i));
    const uint32x4_t inside = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(low)), vcltq_s32(lane, vdupq_n_s32(high)));
    return vbslq_f32(inside, a.v[i], other.v[i]);
  });
}

inline float sum(F a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float largest(F a) {
  float v[16];
  store(v, a);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
  return v[0];
}

inline F load_half(const uint16_t *p) {
  return each([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline void store_half(uint16_t *p, F a) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}

inline void load_pairs(const uint8_t *p, F &first_of, F &second_of) {
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t pair = vreinterpretq_u32_u8(vld1q_u8(p + 16 * i));
    first_of.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(pair, 16));
    second_of.v[i] = vreinterpretq_f32_u32(vandq_u32(pair, vdupq_n_u32(0xffff0000u)));
  }
}

inline I iset1(int32_t a) { return {{vdupq_n_s32(a), vdupq_n_s32(a), vdupq_n_s32(a), vdupq_n_s32(a)}}; }
inline I iadd(I a, I b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vaddq_s32(a.v[i], b.v[i]);
  return a;
}
inline F to_float(I a) { return each([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }

inline int32_t store_bytes(int8_t *p, F a) {
  int32_t total = 0;
  for (int i = 0; i < 4; ++i) {
    int32_t whole[4];
    vst1q_s32(whole, vcvtnq_s32_f32(a.v[i]));
    for (int j = 0; j < 4; ++j) {
      p[4 * i + j] = static_cast<int8_t>(whole[j] & 255);
      total += p[4 * i + j];
    }
  }
  return total;
}

inline Bytes load_bytes(const uint8_t *p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
inline Bytes low_halves(Bytes a) {
  for (auto &v : a.v) v = vandq_u8(v, vdupq_n_u8(15));
  return a;
}
inline Bytes high_halves(Bytes a) {
  for (auto &v : a.v) v = vshrq_n_u8(v, 4);
  return a;
}

// Both sides signed; halves are below 16 and bytes were made signed by `prepared8`.
inline I dot4(I sum, Bytes w, const int8_t *x) {
  int32_t bits;
  std::memcpy(&bits, x, 4);
  const int8x16_t activations = vreinterpretq_s8_s32(vdupq_n_s32(bits));
  for (int i = 0; i < 4; ++i) {
    const int8x16_t weights = vreinterpretq_s8_u8(w.v[i]);
#if defined(__ARM_FEATURE_DOTPROD)
    sum.v[i] = vdotq_s32(sum.v[i], weights, activations);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(activations));
    const int16x8_t high = vmull_s8(vget_high_s8(weights), vget_high_s8(activations));
    sum.v[i] = vaddq_s32(sum.v[i], vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
  }
  return sum;
}
// `low` meets four activations, `high` the next four; `first` and `second` may be the same sum.
inline void dot4_twice(I &first, I &second, Bytes low, Bytes high, const int8_t *x) {
  first = dot4(first, low, x);
  second = dot4(second, high, x + 4);
}
inline Bytes prepared8(Bytes w) {
  for (auto &v : w.v) v = veorq_u8(v, vdupq_n_u8(0x80));
  return w;
}
inline I dot8(I sum, Bytes w, const int8_t *x) { return dot4(sum, w, x); }

}  // namespace
