#include "simd_neon.h"
#define SET dotprod
#include "kernels.inl"
