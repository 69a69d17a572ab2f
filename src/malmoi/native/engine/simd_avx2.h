// Sixteen numbers in two AVX2 registers. See simd_scalar.h.
//
// AVX2 multiplies unsigned by signed bytes and adds pairs in 16 bits, which overflow for large bytes. Two absolute
// values of at most 127 and 128 do not: 2 * 127 * 128 < 32768. So the sign goes from the activation to the weight.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace avx2 {

struct F { __m256 a, b; };
struct I { __m256i a, b; };
struct Bytes { __m256i a, b; };

constexpr int ROWS = 3;
constexpr int PAIRED = ROWS + 1;  // never: there are too few registers
constexpr int BYTE_OFFSET = 0;

inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
inline F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F load_n(const float *p, int n) {
  return {_mm256_maskload_ps(p, first(n)), n > 8 ? _mm256_maskload_ps(p + 8, first(n - 8)) : _mm256_setzero_ps()};
}
inline void store(float *p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline void store_n(float *p, F x, int n) {
  _mm256_maskstore_ps(p, first(n), x.a);
  if (n > 8) _mm256_maskstore_ps(p + 8, first(n - 8), x.b);
}
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F nearest(F x) {
  constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, how), _mm256_round_ps(x.b, how)};
}
inline __m256 power8(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F power(F n) { return {power8(n.a), power8(n.b)}; }
inline F within(F x, int low, int high, F other) {
  const __m256i a = _mm256_andnot_si256(first(low), first(high));
  const __m256i b = _mm256_andnot_si256(first(low - 8), first(high - 8));
  return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(a)), _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(b))};
}

inline float sum(F x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float largest(F x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline F load_half(const uint16_t *p) {
  const auto *from = reinterpret_cast<const __m128i *>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))};
}
inline void store_half(uint16_t *p, F x) {
  auto *to = reinterpret_cast<__m128i *>(p);
  _mm_storeu_si128(to, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(to + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

inline Bytes load_bytes(const uint8_t *p) {
  const auto *from = reinterpret_cast<const __m256i *>(p);
  return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}

inline void load_pairs(const uint8_t *p, F &first_of, F &second_of) {
  const Bytes pair = load_bytes(p);
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  first_of = {_mm256_castsi256_ps(_mm256_slli_epi32(pair.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(pair.b, 16))};
  second_of = {_mm256_castsi256_ps(_mm256_and_si256(pair.a, upper)),
               _mm256_castsi256_ps(_mm256_and_si256(pair.b, upper))};
}

inline I iset1(int32_t a) { return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
inline I iadd(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

inline int32_t store_bytes(int8_t *p, F x) {
  int32_t whole[16], total = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(whole), _mm256_cvtps_epi32(x.a));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(whole + 8), _mm256_cvtps_epi32(x.b));
  for (int i = 0; i < 16; ++i) {
    p[i] = static_cast<int8_t>(whole[i] & 255);
    total += p[i];
  }
  return total;
}

inline Bytes low_halves(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Bytes high_halves(Bytes x) {
  return low_halves({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}

inline __m256i four(const int8_t *x) {
  int32_t bits;
  std::memcpy(&bits, x, 4);
  return _mm256_set1_epi32(bits);
}
inline __m256i products(__m256i sum, __m256i positive, __m256i other) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(positive, other), _mm256_set1_epi16(1)));
}
// Weights below 16: two products fit into 16 bits (4 * 15 * 127 < 32768), so the two are widened together. (More would
// fit, but a sum in 16 bits for each row takes the registers that the weights need: measured slower.)
inline void dot4_twice(I &first, I &, Bytes low, Bytes high, const int8_t *x) {
  const __m256i one = _mm256_set1_epi16(1), left = four(x), right = four(x + 4);
  const __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(low.a, left), _mm256_maddubs_epi16(high.a, right));
  const __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(low.b, left), _mm256_maddubs_epi16(high.b, right));
  first = iadd(first, {_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one)});
}
inline Bytes prepared8(Bytes w) {
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(0x80));
  return {_mm256_xor_si256(w.a, offset), _mm256_xor_si256(w.b, offset)};
}
// |w| is the unsigned side, which may be 128; x, at most 127, takes w's sign.
inline I dot8(I sum, Bytes w, const int8_t *x) {
  const __m256i activations = four(x);
  return {products(sum.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(activations, w.a)),
          products(sum.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(activations, w.b))};
}

}  // namespace avx2
