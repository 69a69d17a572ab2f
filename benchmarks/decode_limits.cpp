// What this machine can do at best, so that an engine's figures can be held against it: bytes a second that its cores
// read together from memory in huge pages, and multiplications a second of each kind of number, all in registers.
//
//     c++ -O3 -march=native -ffp-contract=fast -pthread decode_limits.cpp -o limits && ./limits 2
//
// Prints one line of JSON. An addition and a multiplication count as two operations. A kind of number for which the CPU
// has no instruction of its own is null.

#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace {

constexpr size_t bytes = size_t{1} << 30;
constexpr int rounds = 1 << 24;  // long beside the moment that a new thread takes to find a core of its own
constexpr int chains = 12;  // independent sums, so that no instruction waits for the one before it

#ifdef __AVX512F__
using Floats = float __attribute__((vector_size(64)));
#else
using Floats = float __attribute__((vector_size(32)));
#endif
volatile uint64_t sink;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Work>
double seconds_of(int threads, Work work) {
    double best = 1e9;
    for (int repeat = 0; repeat < 8; ++repeat) {
        double start = now();
        std::vector<std::thread> team;
        for (int each = 1; each < threads; ++each) team.emplace_back(work, each);
        work(0);
        for (auto& one : team) one.join();
        double took = now() - start;
        if (took < best) best = took;
    }
    return best;
}

double read_speed(int threads) {
    void* place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED) exit(1);
    madvise(place, bytes, MADV_HUGEPAGE);
    auto* numbers = static_cast<uint64_t*>(place);
    size_t count = bytes / sizeof(uint64_t), share = count / threads;
    for (size_t i = 0; i < count; i += 512) numbers[i] = i;
    double best = seconds_of(threads, [=](int each) {
        const uint64_t* mine = numbers + share * each;
        uint64_t sums[32] = {};
        for (size_t i = 0; i + 32 <= share; i += 32) {
            __builtin_prefetch(mine + i + 512);
            for (int lane = 0; lane < 32; ++lane) sums[lane] ^= mine[i + lane];
        }
        uint64_t all = 0;
        for (uint64_t sum : sums) all ^= sum;
        sink = all;
    });
    munmap(place, bytes);
    return bytes / best;
}

double float32_speed(int threads) {
    double best = seconds_of(threads, [](int) {
        Floats sums[chains], a = {}, b = {};
        for (auto& sum : sums) sum = a;
        a += 1.0001f, b += 0.9999f;
        for (int i = 0; i < rounds; ++i) {
            asm volatile("" : "+v"(a), "+v"(b));  // the compiler must not take the product out of the loop
            for (auto& sum : sums) sum += a * b;
        }
        Floats all = {};
        for (auto& sum : sums) all += sum;
        sink = static_cast<uint64_t>(all[0]);
    });
    return 2.0 * (sizeof(Floats) / sizeof(float)) * chains * rounds * threads / best;
}

#ifdef __AVX512VNNI__
double int8_speed(int threads) {
    double best = seconds_of(threads, [](int) {
        __m512i sums[chains], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
        for (auto& sum : sums) sum = _mm512_setzero_si512();
        for (int i = 0; i < rounds; ++i) {
            asm volatile("" : "+v"(a), "+v"(b));
            for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
        }
        __m512i all = _mm512_setzero_si512();
        for (auto& sum : sums) all = _mm512_add_epi32(all, sum);
        sink = static_cast<uint64_t>(_mm512_reduce_add_epi32(all));
    });
    return 2.0 * 64 * chains * rounds * threads / best;
}
#endif

#ifdef __AVX512BF16__
double bfloat16_speed(int threads) {
    double best = seconds_of(threads, [](int) {
        __m512 sums[chains];
        __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = a;  // ones
        for (auto& sum : sums) sum = _mm512_setzero_ps();
        for (int i = 0; i < rounds; ++i) {
            asm volatile("" : "+v"(a), "+v"(b));
            for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b);
        }
        __m512 all = _mm512_setzero_ps();
        for (auto& sum : sums) all = _mm512_add_ps(all, sum);
        sink = static_cast<uint64_t>(_mm512_reduce_add_ps(all));
    });
    return 2.0 * 32 * chains * rounds * threads / best;
}
#endif

}  // namespace

int main(int count, char** words) {
    int threads = count > 1 ? atoi(words[1]) : 1;
    std::printf("{\"read\": %.6g, \"float32\": %.6g, ", read_speed(threads), float32_speed(threads));
#ifdef __AVX512VNNI__
    std::printf("\"int8\": %.6g, ", int8_speed(threads));
#else
    std::printf("\"int8\": null, ");
#endif
#ifdef __AVX512BF16__
    std::printf("\"bfloat16\": %.6g}\n", bfloat16_speed(threads));
#else
    std::printf("\"bfloat16\": null}\n");
#endif
}
