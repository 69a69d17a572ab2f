// Threads that stay: all run the same function and wait for each other at barriers.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace malmoi {

class Team {
 public:
  Team() = default;
  ~Team();
  Team(const Team &) = delete;
  Team &operator=(const Team &) = delete;

  // Runs `job(member)` on `size` threads, the caller being member 0. The job may not throw.
  void run(int size, const std::function<void(int)> &job);

  // Whether this is a child process, in which the threads do not exist. Such a team cannot be used, nor destroyed: what
  // its threads held when the process was copied is held forever.
  bool forked() const;

  // Inside a job: nobody goes on before all have come. Work that was handed out by `next` begins anew.
  void barrier();

  // Inside a job: the next piece of `count` things; false when none is left since the last barrier. Large pieces first,
  // then ever smaller ones, but not below `least`: nobody waits long for the one who took the last.
  bool next(int64_t count, int64_t least, int64_t &first, int64_t &last) {
    first = handed_.load(std::memory_order_relaxed);
    do {
      if (first >= count) return false;
      const int64_t piece = size_ == 1 ? count : (count - first) / (2 * size_);
      last = first + (piece > least ? piece : least);
      if (last > count) last = count;
    } while (!handed_.compare_exchange_weak(first, last, std::memory_order_relaxed));
    return true;
  }

 private:
  void start(int size);
  void stop();
  void work(int member);
  template <class Ready> void wait(Ready ready);
  void wake();

  std::vector<std::thread> threads_;
  long process_ = 0;  // threads do not survive a fork
  std::mutex mutex_;
  std::condition_variable woken_;
  std::atomic<uint32_t> call_{0}, phase_{0};
  std::atomic<int> arrived_{0}, asleep_{0};
  std::atomic<int64_t> handed_{0};
  bool ending_ = false;
  int size_ = 1;
  const std::function<void(int)> *job_ = nullptr;
};

}  // namespace malmoi
