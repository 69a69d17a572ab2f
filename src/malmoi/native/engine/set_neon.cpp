#include "simd_neon.h"
#define SET neon
#include "kernels.inl"
