// Functions of sixteen numbers at a time, the same steps on every CPU. A part of kernels.inl.

// e^x to about 2 ulp: 2^n * e^r with |r| <= ln(2) / 2 and seven terms of the series. Below -87 it stays at e^-87.
inline F exponential(F x) {
  x = max(min(x, set1(88.0f)), set1(-87.0f));
  const F n = nearest(mul(x, set1(1.44269504f)));
  F r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.0f / 5040);
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = fma(p, r, set1(c));
  return mul(p, power(n));
}

inline F over_one_plus_exp(F x, F minus) { return div(x, add(set1(1.0f), exponential(minus))); }

inline F silu(F x) { return over_one_plus_exp(x, sub(zero(), x)); }

// 0.5 x (1 + tanh u) = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
inline F gelu_tanh(F x) {
  const F cube = mul(mul(x, x), x);
  return over_one_plus_exp(x, mul(fma(cube, set1(0.044715f), x), set1(-1.59576912f)));
}

// x Phi(x), the error function by Abramowitz and Stegun's formula 7.1.26 (absolute error below 1.5e-7).
inline F gelu(F x) {
  const F size = abs(x), z = mul(size, set1(0.70710678f));
  const F t = div(set1(1.0f), fma(z, set1(0.3275911f), set1(1.0f)));
  F p = set1(1.061405429f);
  for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = fma(p, t, set1(c));
  const F tail = mul(mul(p, t), exponential(sub(zero(), mul(z, z))));  // 1 - erf(|z|)
  return sub(max(x, zero()), mul(mul(size, set1(0.5f)), tail));
}

inline F activated(F x, int activation) {
  switch (activation) {
    case MALMOI_SILU: return silu(x);
    case MALMOI_GELU: return gelu(x);
    case MALMOI_GELU_TANH: return gelu_tanh(x);
    default: return max(x, zero());
  }
}

// gpt-oss: (clamp(up) + 1) * g * sigmoid(1.702 g), g bounded from above only.
inline F bounded_gate(F gate, F up, float limit) {
  gate = min(gate, set1(limit));
  up = max(min(up, set1(limit)), set1(-limit));
  return mul(add(up, set1(1.0f)), over_one_plus_exp(gate, mul(gate, set1(-1.702f))));
}
