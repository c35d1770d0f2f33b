#include "file_mapping.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>

#include "error.h"

namespace cpuft {

namespace {

const auto kPage = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));

// All mappings, for the handler, which may take no lock. Those that find no room are as all were without it.
constexpr size_t kMostMappings = 256;
std::atomic<FileMapping*> mappings[kMostMappings];
static_assert(std::atomic<FileMapping*>::is_always_lock_free);
std::atomic<int> n_handling{0};  // threads that may hold a pointer out of `mappings`

std::mutex handlers;  // the state of the handler, but for what the handler itself asks for
int n_reads = 0;
struct sigaction previous;
std::atomic<bool> handed_over{false};  // since ours was put in its place

void handle(int number, siginfo_t* info, void* context);

bool is_ours(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == handle;
}

void install() {
    handed_over = false;
    struct sigaction now;
    sigaction(SIGBUS, nullptr, &now);
    if (is_ours(now)) return;  // another was put over it during a pass, and taken away since
    previous = now;
    struct sigaction ours = {};
    ours.sa_sigaction = handle;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;  // programs with small stacks bring one for signals
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, nullptr);
}

void uninstall() {
    struct sigaction now;
    sigaction(SIGBUS, nullptr, &now);
    if (is_ours(now)) sigaction(SIGBUS, &previous, nullptr);
}

// A read that the file could not serve. A signal that somebody sent has no address, and one for a misaligned address would
// come again.
bool is_failed_read(const siginfo_t& info) {
#ifdef BUS_MCEERR_AR
    if (info.si_code == BUS_MCEERR_AR) return true;  // the page's memory is broken
#endif
    return info.si_code == BUS_ADRERR;
}

bool mend(uintptr_t address) {
    bool mended = false;
    ++n_handling;
    for (std::atomic<FileMapping*>& slot : mappings) {
        FileMapping* mapping = slot;
        if (mapping != nullptr && mapping->replace_from(address)) mended = true;
    }
    --n_handling;
    return mended;
}

// The handler before takes the place again, with flags and mask of its own, as far as another thread has not seen to that.
// Where the signal comes back after that, because that one had been put over ours and ends in ours, nobody is left who
// wants it.
void hand_over() {
    struct sigaction now;
    sigaction(SIGBUS, nullptr, &now);
    if (handed_over && !is_ours(now)) return;
    if (handed_over) previous = {};
    sigaction(SIGBUS, &previous, nullptr);
    handed_over = true;
}

void handle(int number, siginfo_t* info, void*) {
    const int error = errno;
    if (!is_failed_read(*info) || !mend(reinterpret_cast<uintptr_t>(info->si_addr))) {
        hand_over();
        if (info->si_code <= 0) raise(number);  // what somebody sent; a read that failed fails again by itself
    }
    errno = error;
}

void before_fork() { handlers.lock(); }
void after_fork() { handlers.unlock(); }
// The child has the calling thread alone, and that one reads nothing.
void in_child() {
    if (n_reads > 0) uninstall();
    n_reads = 0;
    n_handling = 0;
    handlers.unlock();
}

int64_t modified(const struct stat& status) {
#ifdef __APPLE__
    const struct timespec& time = status.st_mtimespec;
#else
    const struct timespec& time = status.st_mtim;
#endif
    return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
}

}  // namespace

MappedReads::MappedReads() {
    [[maybe_unused]] static const int forks = pthread_atfork(before_fork, after_fork, in_child);
    const std::lock_guard<std::mutex> lock(handlers);
    if (n_reads++ == 0) install();
}

MappedReads::~MappedReads() {
    const std::lock_guard<std::mutex> lock(handlers);
    if (--n_reads == 0) uninstall();
}

FileMapping::FileMapping(const std::string& path) : path_(path) {
    file_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) refuse("cannot open the model %s: %s", path.c_str(), std::strerror(errno));
    struct stat status;
    if (fstat(file_, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
        close(file_);
        refuse("%s is no GGUF file: it is empty or not a regular file", path.c_str());
    }
    void* mapping = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, file_, 0);
    if (mapping == MAP_FAILED) {
        const int error = errno;
        close(file_);
        refuse("cannot map the model %s into memory: %s", path.c_str(), std::strerror(error));
    }
    data_ = static_cast<char*>(mapping);
    size_ = status.st_size;
    modified_ = modified(status);
    for (std::atomic<FileMapping*>& slot : mappings) {
        FileMapping* none = nullptr;
        if (slot.compare_exchange_strong(none, this)) break;
    }
}

FileMapping::~FileMapping() {
    for (std::atomic<FileMapping*>& slot : mappings) {
        FileMapping* self = this;
        slot.compare_exchange_strong(self, nullptr);
    }
    while (n_handling > 0) std::this_thread::yield();  // a few system calls of another thread
    munmap(data_, static_cast<size_t>(size_));
    close(file_);
}

void FileMapping::require_unchanged() const {
    struct stat status;
    if (fstat(file_, &status) != 0) refuse("cannot ask for the state of %s: %s", path_.c_str(), std::strerror(errno));
    if (status.st_size != size_) {
        refuse("%s had %lld bytes when it was opened and has %lld now; start again once nothing writes to it",
               path_.c_str(), (long long)size_, (long long)status.st_size);
    }
    if (modified(status) != modified_) {
        refuse("%s was written to since it was opened; start again once nothing writes to it", path_.c_str());
    }
    if (damaged_) {
        refuse("a part of %s could not be read: it was cut for a while, or its disk failed; check it and start again",
               path_.c_str());
    }
}

bool FileMapping::replace_from(uintptr_t address) noexcept {
    const auto begin = reinterpret_cast<uintptr_t>(data_);
    const uintptr_t end = begin + (static_cast<uintptr_t>(size_) + kPage - 1) / kPage * kPage;
    if (address < begin || address >= end) return false;
    const uintptr_t page = address / kPage * kPage;
    damaged_ = true;  // before anybody can read the zeros
    return mmap(data_ + (page - begin), end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
                -1, 0) != MAP_FAILED;
}

}  // namespace cpuft
