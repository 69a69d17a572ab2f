// AVX-512 where the CPU has none: SIMDe's functions by the intrinsics' names, and those that SIMDe 0.7 lacks.
#pragma once
#include_next <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

namespace emulated {

template <class Whole, class Half>
struct Halves {
  Half low, high;
  Halves(Half l, Half h) : low(l), high(h) {}
  explicit Halves(Whole a) { std::memcpy(this, &a, sizeof a); }
  Whole whole() const {
    Whole a;
    std::memcpy(&a, this, sizeof a);
    return a;
  }
};
using F = Halves<simde__m512, __m256>;
using I = Halves<simde__m512i, __m256i>;

inline simde__m512 maskz_loadu_ps(uint16_t mask, const void *p) {
  float a[16] = {};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) std::memcpy(a + i, static_cast<const float *>(p) + i, 4);
  return simde_mm512_loadu_ps(a);
}
inline void mask_storeu_ps(void *p, uint16_t mask, simde__m512 values) {
  float a[16];
  simde_mm512_storeu_ps(a, values);
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) std::memcpy(static_cast<float *>(p) + i, a + i, 4);
}
inline __m256 extractf32x8_ps(simde__m512 a, int half) { return half ? F(a).high : F(a).low; }
inline simde__m512 cvtph_ps(__m256i a) {
  return F(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))).whole();
}
inline __m256i cvtps_ph(simde__m512 a, int) {
  return _mm256_set_m128i(_mm256_cvtps_ph(F(a).high, 0), _mm256_cvtps_ph(F(a).low, 0));
}
inline simde__m512 cvtepi32_ps(simde__m512i a) {
  return F(_mm256_cvtepi32_ps(I(a).low), _mm256_cvtepi32_ps(I(a).high)).whole();
}
inline simde__m512i cvtps_epi32(simde__m512 a) {
  return I(_mm256_cvtps_epi32(F(a).low), _mm256_cvtps_epi32(F(a).high)).whole();
}
inline __m128i cvtepi32_epi8(simde__m512i a) {
  int32_t from[16];
  int8_t to[16];
  std::memcpy(from, &a, sizeof from);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int8_t>(from[i]);
  return _mm_loadu_si128(reinterpret_cast<const __m128i *>(to));
}
inline int32_t reduce_add_epi32(simde__m512i a) {
  uint32_t from[16], sum = 0;
  std::memcpy(from, &a, sizeof from);
  for (uint32_t one : from) sum += one;
  return static_cast<int32_t>(sum);
}

}  // namespace emulated

#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_extractf32x8_ps emulated::extractf32x8_ps
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_cvtps_ph emulated::cvtps_ph
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#define _mm512_cvtepi32_epi8 emulated::cvtepi32_epi8
#define _mm512_reduce_add_epi32 emulated::reduce_add_epi32
