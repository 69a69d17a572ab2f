// Sixteen numbers in one AVX-512 register; four products of bytes a lane in one VNNI instruction. See simd_scalar.h.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace avx512 {

using F = __m512;
using I = __m512i;
using Bytes = __m512i;

constexpr int ROWS = 8;
constexpr int PAIRED = 4;  // rows of a tile from which on two blocks of weights are taken side by side
constexpr int BYTE_OFFSET = 128;

inline __mmask16 first(int n) { return n >= 16 ? __mmask16(0xffff) : n <= 0 ? __mmask16(0) : __mmask16((1u << n) - 1); }

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float a) { return _mm512_set1_ps(a); }
inline F load(const float *p) { return _mm512_loadu_ps(p); }
inline F load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store(float *p, F a) { _mm512_storeu_ps(p, a); }
inline void store_n(float *p, F a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F nearest(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F power(F n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
inline F within(F a, int low, int high, F other) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(first(high) & ~first(low)), other, a);
}

inline float sum(F a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

inline float largest(F a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline F load_half(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline void store_half(uint16_t *p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

inline void load_pairs(const uint8_t *p, F &first_of, F &second_of) {
  const __m512i pair = _mm512_loadu_si512(p);
  first_of = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
  second_of = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline I iset1(int32_t a) { return _mm512_set1_epi32(a); }
inline I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }

inline int32_t store_bytes(int8_t *p, F a) {
  const __m512i whole = _mm512_cvtps_epi32(a);
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}

inline Bytes load_bytes(const uint8_t *p) { return _mm512_loadu_si512(p); }
inline Bytes low_halves(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline Bytes high_halves(Bytes a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }

inline I four(const int8_t *x) {
  int32_t bits;
  std::memcpy(&bits, x, 4);
  return _mm512_set1_epi32(bits);
}
inline I dot4(I sum, Bytes w, const int8_t *x) {
#if defined(__GNUC__) && !defined(MALMOI_EMULATED_AVX512)
  // The intrinsic makes GCC copy each sum from register to register on its way, twice a product.
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(four(x)));
  return sum;
#else
  return _mm512_dpbusd_epi32(sum, w, four(x));
#endif
}
// `low` meets four activations, `high` the next four; `first` and `second` may be the same sum.
inline void dot4_twice(I &first, I &second, Bytes low, Bytes high, const int8_t *x) {
  first = dot4(first, low, x);
  second = dot4(second, high, x + 4);
}
inline Bytes prepared8(Bytes w) { return w; }
inline I dot8(I sum, Bytes w, const int8_t *x) { return dot4(sum, w, x); }

}  // namespace avx512
