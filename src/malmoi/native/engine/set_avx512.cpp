#include "simd_avx512.h"
#define SET avx512
#include "kernels.inl"
