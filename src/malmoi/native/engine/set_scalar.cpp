#include "simd_scalar.h"
#define SET scalar
#include "kernels.inl"
