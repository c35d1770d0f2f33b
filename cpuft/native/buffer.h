// Buffer: a grow-only, cache-line-aligned array without initialization. Workspaces are Buffers that keep their size from
// one pass to the next, so that a training step allocates nothing once the largest pass has been seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

namespace cpuft {

template <class T>
class Buffer {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), capacity_(std::exchange(other.capacity_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    // At least `size` elements; what they held before is lost when the buffer grows.
    T* reserve(int64_t size) {
        if (size > capacity_) {
            std::free(data_);
            data_ = nullptr;
            capacity_ = 0;
            const size_t bytes = (static_cast<size_t>(size) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
            data_ = static_cast<T*>(std::aligned_alloc(kAlignment, bytes));
            if (data_ == nullptr) throw std::bad_alloc();
            capacity_ = size;
        }
        return data_;
    }
    int64_t capacity() const { return capacity_; }
    T* data() { return data_; }
    const T* data() const { return data_; }

  private:
    static constexpr size_t kAlignment = 64;  // a cache line, and the width of an AVX-512 register
    T* data_ = nullptr;
    int64_t capacity_ = 0;
};

}  // namespace cpuft
