#include "deep_stack.h"

#include <pthread.h>
#include <sys/mman.h>

#include <exception>
#include <new>

namespace cpuft {

namespace {

struct Call {
    const std::function<void()>& body;
    std::exception_ptr failure;
};

void* run(void* argument) {
    Call& call = *static_cast<Call*>(argument);
    try {
        call.body();
    } catch (...) {
        call.failure = std::current_exception();
    }
    return nullptr;
}

// A stack that is address space until it is used: pthread's own is counted against the machine's memory when it is made.
class Stack {
  public:
    explicit Stack(size_t bytes) : bytes_((bytes + kPage - 1) / kPage * kPage + kPage) {
        data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data_ == MAP_FAILED) throw std::bad_alloc();
        mprotect(data_, kPage, PROT_NONE);  // where it ends: whoever grows further must not write into what lies there
    }
    ~Stack() { munmap(data_, bytes_); }
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    void* data() const { return data_; }
    size_t bytes() const { return bytes_; }

  private:
    static constexpr size_t kPage = 65536;  // of any system
    size_t bytes_;
    void* data_;
};

}  // namespace

void with_deep_stack(size_t bytes, const std::function<void()>& body) {
    const Stack stack(bytes);
    Call call{body, nullptr};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_t thread;
    const bool started = pthread_attr_setstack(&attributes, stack.data(), stack.bytes()) == 0 &&
                         pthread_create(&thread, &attributes, run, &call) == 0;
    pthread_attr_destroy(&attributes);
    if (!started) throw std::bad_alloc();
    pthread_join(thread, nullptr);
    if (call.failure) std::rethrow_exception(call.failure);
}

}  // namespace cpuft
