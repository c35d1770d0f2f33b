// GgufFile: a memory-mapped GGUF file. Every offset and size in it is checked before use.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "file_mapping.h"
#include "gguf.h"
#include "matrix.h"

namespace cpuft {

class GgufFile {
  public:
    // Throws InputError for a file that is missing, no GGUF, truncated or inconsistent.
    explicit GgufFile(const std::string& path);
    const std::string& path() const { return path_; }
    int64_t data_bytes() const { return data_bytes_; }
    void require_unchanged() const { mapping_.require_unchanged(); }

    // For llama.cpp, which takes a header that has been read; it stays this object's.
    gguf_context* header() const { return gguf_.get(); }

    // Metadata values. A key of another type than asked for throws InputError.
    bool has(const std::string& key) const;
    std::string text(const std::string& key) const;
    int64_t integer(const std::string& key) const;
    int64_t integer_or(const std::string& key, int64_t otherwise) const { return has(key) ? integer(key) : otherwise; }
    double real(const std::string& key) const;
    double real_or(const std::string& key, double otherwise) const { return has(key) ? real(key) : otherwise; }
    std::vector<std::string> texts(const std::string& key) const;
    // A list of integers or booleans.
    bool is_list(const std::string& key) const;
    std::vector<int64_t> integers(const std::string& key) const;

    // Tensors by name; find returns an empty Matrix where there is none. A vector is a matrix of one row.
    const std::unordered_map<std::string, Matrix>& tensors() const { return tensors_; }
    Matrix find(const std::string& name) const;

  private:
    void read_header();
    void list_tensors();
    int64_t key_id(const std::string& key) const;

    std::string path_;
    FileMapping mapping_;
    int64_t data_bytes_ = 0;
    std::unique_ptr<gguf_context, decltype(&gguf_free)> gguf_{nullptr, gguf_free};
    std::unique_ptr<ggml_context, decltype(&ggml_free)> shapes_{nullptr, ggml_free};
    std::unordered_map<std::string, Matrix> tensors_;
};

}  // namespace cpuft
