// Vocabulary: the model's own tokenizer, run by llama.cpp, so that training and inference see the same tokens.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gguf_file.h"
#include "llama.h"

namespace cpuft {

class Vocabulary {
  public:
    // Throws InputError where llama.cpp cannot read the file's vocabulary.
    explicit Vocabulary(const GgufFile& file);

    std::vector<int32_t> tokenize(const char* text, int64_t n_bytes, bool add_special, bool parse_special) const;
    std::string detokenize(const int32_t* tokens, int64_t n_tokens, bool render_special) const;

  private:
    template <class Body>
    int32_t convert(Body body) const;

    std::string path_;
    std::unique_ptr<llama_model, decltype(&llama_model_free)> model_{nullptr, llama_model_free};
    const llama_vocab* vocabulary_ = nullptr;
};

}  // namespace cpuft
