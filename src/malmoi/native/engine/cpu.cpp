// Which of the built instruction sets this CPU, and the system on it, can run.
#include <cstring>
#include <string>
#include <vector>

#include "model.h"

#if defined(MALMOI_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(MALMOI_ARM) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace malmoi {
namespace {

#if defined(MALMOI_X86)

struct Registers { unsigned a, b, c, d; };

Registers cpuid(unsigned leaf, unsigned sub) {
  Registers r{};
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(sub));
  r = {unsigned(out[0]), unsigned(out[1]), unsigned(out[2]), unsigned(out[3])};
#else
  __get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d);
#endif
  return r;
}

// The registers that the system saves when it changes threads.
uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
#endif
}

bool bit(unsigned word, int place) { return word >> place & 1; }

bool has_avx2() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
  if (!bit(one.c, 27) || (saved_state() & 6) != 6) return false;
  return bit(one.c, 12) && bit(one.c, 29) && bit(seven.b, 5);  // FMA, F16C, AVX2
}

bool has_avx512() {
#if defined(MALMOI_EMULATED_AVX512)  // a test compiled these kernels for a CPU that lacks them
  return true;
#endif
  if (!has_avx2() || (saved_state() & 0xe6) != 0xe6) return false;
  const Registers seven = cpuid(7, 0);  // F, DQ, BW, VL, VNNI
  return bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 30) && bit(seven.b, 31) && bit(seven.c, 11);
}

#endif

#if defined(MALMOI_ARM)
bool has_dotprod() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  return true;  // every Apple computer of this kind
#else
  return false;
#endif
}
#endif

std::vector<const Kernels *> available() {
  std::vector<const Kernels *> sets;
#if defined(MALMOI_X86)
  if (has_avx512()) sets.push_back(&avx512_kernels);
  if (has_avx2()) sets.push_back(&avx2_kernels);
#endif
#if defined(MALMOI_ARM)
  if (has_dotprod()) sets.push_back(&dotprod_kernels);
  sets.push_back(&neon_kernels);
#endif
  sets.push_back(&scalar_kernels);
  return sets;
}

}  // namespace

const Kernels *kernels_named(const char *name) {
  static const std::vector<const Kernels *> sets = available();
  if (!name || !*name) return sets.front();
  for (const Kernels *set : sets)
    if (!std::strcmp(set->name, name)) return set;
  return nullptr;
}

const char *kernel_names() {
  static const std::string names = [] {
    std::string all;
    for (const Kernels *set : available()) all += (all.empty() ? "" : " ") + std::string(set->name);
    return all;
  }();
  return names.c_str();
}

}  // namespace malmoi
