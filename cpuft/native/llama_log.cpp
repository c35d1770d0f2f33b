#include "llama_log.h"

#include "error.h"
#include "llama.h"

namespace cpuft {

namespace {

std::mutex logger;

}  // namespace

LlamaLog::LlamaLog() : lock_(logger) {
    llama_log_get(&callback_, &user_data_);
    llama_log_set(keep_first_error, this);
}

LlamaLog::~LlamaLog() { llama_log_set(callback_, user_data_); }

void LlamaLog::keep_first_error(ggml_log_level level, const char* text, void* log) {
    std::string& first = static_cast<LlamaLog*>(log)->first_error_;
    if (level == GGML_LOG_LEVEL_ERROR && first.empty()) first = text;
}

std::string LlamaLog::first_error(const char* otherwise) const {
    std::string text = first_error_;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    const size_t colon = text.find(": ");  // ends the name of their function
    if (colon != std::string::npos) text = text.substr(colon + 2);
    return text.empty() ? otherwise : printable(text, 300);
}

}  // namespace cpuft
