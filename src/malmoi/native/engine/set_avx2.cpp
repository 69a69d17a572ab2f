#include "simd_avx2.h"
#define SET avx2
#include "kernels.inl"
