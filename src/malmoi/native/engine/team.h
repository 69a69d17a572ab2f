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

  // Inside a job: the next piece of at most `piece` of `count` things; false when none is left since the last barrier.
  bool next(int64_t count, int64_t piece, int64_t &first, int64_t &last) {
    first = handed_.fetch_add(piece, std::memory_order_relaxed);
    last = first + piece < count ? first + piece : count;
    return first < count;
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
