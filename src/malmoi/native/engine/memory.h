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

namespace malmoi {

struct Failure : std::runtime_error {
  malmoi_status status;
  Failure(malmoi_status status, const std::string &what) : std::runtime_error(what), status(status) {}
};

// Plain numbers, zero at first. Large pieces are not touched, so that what is never used costs no memory.
template <class T> class Array {
 public:
  Array() = default;
  explicit Array(size_t count) : count_(count) {
    if (count == 0) return;
    if (count > (SIZE_MAX - 128) / sizeof(T)) throw std::bad_alloc();
    raw_ = std::calloc(count * sizeof(T) + 128, 1);
    if (!raw_) throw std::bad_alloc();
    data_ = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(raw_) + 63) / 64 * 64);
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
