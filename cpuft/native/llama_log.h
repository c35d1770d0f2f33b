// LlamaLog: what llama.cpp and ggml report while it lives. Both have one logger for the whole process and tell only through
// it why they refuse a file, so whoever calls them holds the one lock on it.
#pragma once

#include <mutex>
#include <string>

#include "ggml.h"

namespace cpuft {

class LlamaLog {
  public:
    LlamaLog();
    ~LlamaLog();
    LlamaLog(const LlamaLog&) = delete;
    LlamaLog& operator=(const LlamaLog&) = delete;

    // The first error, fit for a sentence, or `otherwise` where there was none. Later ones only say what follows from it.
    std::string first_error(const char* otherwise) const;

  private:
    static void keep_first_error(ggml_log_level level, const char* text, void* log);

    std::unique_lock<std::mutex> lock_;
    ggml_log_callback callback_ = nullptr;  // whose turn it is again afterwards
    void* user_data_ = nullptr;
    std::string first_error_;
};

}  // namespace cpuft
