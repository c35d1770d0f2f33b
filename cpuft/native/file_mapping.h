// FileMapping: a file's bytes in memory. Another program that writes to the file changes them; one that puts a new file in its
// place does not.
//
// Reading what was cut off a mapped file is SIGBUS, at any moment, on any thread. While a MappedReads lives, such a read gives
// zeros instead, and the mapping knows that it is damaged from then on: its numbers count for nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace cpuft {

// Mapped read-only for the object's lifetime.
class FileMapping {
  public:
    explicit FileMapping(const std::string& path);
    ~FileMapping();
    FileMapping(const FileMapping&) = delete;
    FileMapping& operator=(const FileMapping&) = delete;

    const char* data() const { return data_; }
    int64_t size() const { return size_; }

    // Throws InputError where the file was cut or written to since it was mapped, or could not be read. What is read then is
    // no longer what was checked.
    void require_unchanged() const;

    // Puts zeros over the mapping, from the page of `address` to the end, if it lies inside. For a signal's handler: system
    // calls alone. False where it lies elsewhere, or where the system refuses.
    bool replace_from(uintptr_t address) noexcept;

  private:
    std::string path_;
    int file_ = -1;
    char* data_ = nullptr;
    int64_t size_ = 0;
    int64_t modified_ = 0;  // in nanoseconds
    std::atomic<bool> damaged_{false};
};

// The handler of SIGBUS is ours while any of these lives, on any thread, and whose it was before in between. Any other SIGBUS
// goes to that one, as if ours had never been there.
class MappedReads {
  public:
    MappedReads();
    ~MappedReads();
    MappedReads(const MappedReads&) = delete;
    MappedReads& operator=(const MappedReads&) = delete;
};

}  // namespace cpuft
