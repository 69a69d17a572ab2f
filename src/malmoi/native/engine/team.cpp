#include "team.h"

#if defined(_WIN32)
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif
#if defined(MALMOI_X86)
#include <immintrin.h>
#endif

namespace malmoi {

namespace {

constexpr int SPINS = 2000;  // a few dozen microseconds: longer than a phase is uneven, shorter than it matters

inline void relax() {
#if defined(MALMOI_X86)
  _mm_pause();
#elif defined(MALMOI_ARM)
  asm volatile("yield");
#endif
}

}  // namespace

// Looks for a while, then sleeps: where there are fewer cores than threads, looking would keep the others from working.
template <class Ready> void Team::wait(Ready ready) {
  for (int i = 0; i < SPINS; ++i) {
    if (ready()) return;
    relax();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  ++asleep_;
  woken_.wait(lock, ready);
  --asleep_;
}

// Called after what `wait` looks at has changed. A sleeper counts itself before it looks for the last time.
void Team::wake() {
  if (asleep_.load() == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  woken_.notify_all();
}

void Team::barrier() {
  if (size_ == 1) {
    handed_.store(0, std::memory_order_relaxed);
    return;
  }
  const uint32_t phase = phase_.load();
  if (arrived_.fetch_add(1) + 1 == size_) {
    arrived_.store(0);
    handed_.store(0);
    phase_.store(phase + 1);
    wake();
  } else {
    wait([&] { return phase_.load() != phase; });
  }
}

void Team::work(int member) {
  for (uint32_t seen = 0;;) {
    wait([&] { return call_.load() != seen; });
    seen = call_.load();
    if (ending_) return;
    (*job_)(member);
    barrier();
  }
}

void Team::start(int size) {
  call_ = 0;
  process_ = static_cast<long>(getpid());
  try {
    for (int member = 1; member < size; ++member) threads_.emplace_back([this, member] { work(member); });
  } catch (...) {  // the system gives no more threads
    stop();
    throw;
  }
}

void Team::stop() {
  ending_ = true;
  call_.fetch_add(1);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    woken_.notify_all();
  }
  for (std::thread &thread : threads_) thread.join();
  threads_.clear();
  ending_ = false;
}

Team::~Team() { stop(); }

bool Team::forked() const { return !threads_.empty() && process_ != static_cast<long>(getpid()); }

void Team::run(int size, const std::function<void(int)> &job) {
  if (static_cast<size_t>(size) != threads_.size() + 1) {
    stop();
    start(size);
  }
  size_ = size;
  job_ = &job;
  arrived_ = 0;
  handed_ = 0;
  call_.fetch_add(1);
  wake();
  job(0);
  barrier();
}

}  // namespace malmoi
