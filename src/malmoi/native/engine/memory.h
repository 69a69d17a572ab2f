// Memory that begins at a cache line and holds zeros; and the one exception that the engine uses inside.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "malmoi.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace malmoi {

struct Failure : std::runtime_error {
  malmoi_status status;
  Failure(malmoi_status status, const std::string &what) : std::runtime_error(what), status(status) {}
};

constexpr size_t HUGE_PAGE = 2 << 20;  // memory in small pages is read at little more than half the speed

// Plain numbers, zero at first. Large pieces are not touched, so that what is never used costs no memory.
template <class T> class Array {
 public:
  Array() = default;
  explicit Array(size_t count) : count_(count) {
    if (count == 0) return;
    if (count > (SIZE_MAX - 128) / sizeof(T)) throw std::bad_alloc();
    const size_t bytes = count * sizeof(T), to = bytes < HUGE_PAGE ? 64 : HUGE_PAGE;
    if (bytes > SIZE_MAX - 2 * HUGE_PAGE) throw std::bad_alloc();
    raw_ = std::calloc(bytes + to, 1);
    if (!raw_) throw std::bad_alloc();
    data_ = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(raw_) + to - 1) / to * to);
#if defined(__linux__)
    if (to == HUGE_PAGE) madvise(data_, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);  // a wish: it may be refused
#endif
  }
  Array(Array &&other) noexcept { *this = std::move(other); }
  Array &operator=(Array &&other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~Array() { std::free(raw_); }
  T *data() const { return data_; }
  size_t size() const { return count_; }
  T &operator[](size_t i) const { return data_[i]; }

 private:
  void *raw_ = nullptr;
  T *data_ = nullptr;
  size_t count_ = 0;
};

}  // namespace malmoi
