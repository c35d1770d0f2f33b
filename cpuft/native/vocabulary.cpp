#include "vocabulary.h"

#include <stdexcept>
#include <unordered_set>

#include "deep_stack.h"
#include "error.h"
#include "llama_log.h"

namespace cpuft {

namespace {

// For many kinds of tokenizer llama.cpp splits a text with std::regex, which calls itself once for each character of a word,
// or of a run of spaces. It took 425 bytes each time (GCC 12, -O1, x86-64): 20 000 letters in a row filled a stack of 8 MiB.
constexpr size_t kStackPerByte = 1024;
constexpr size_t kLeastStack = 8 << 20;
constexpr int64_t kShallowBytes = 8192;  // fits half of a usual stack, and saves most texts a thread of their own

// llama.cpp asserts some properties of a vocabulary, which would end the process. Those that it asserts while it reads one are
// checked here, before it does.
void check_before(const GgufFile& file) {
    const char* path = file.path().c_str();
    const std::string model = file.text("tokenizer.ggml.model");
    if (model != "llama" && model != "gpt2") {
        refuse("%s: tokenizer model \"%s\" is not supported; cpuft knows llama (SentencePiece) and gpt2 (BPE)", path,
               printable(model).c_str());
    }
    const std::vector<std::string> tokens = file.texts("tokenizer.ggml.tokens");
    std::unordered_set<std::string> seen;
    for (size_t id = 0; id < tokens.size(); ++id) {
        // llama.cpp names empty tokens after their number.
        const std::string token = tokens[id].empty() ? "[EMPTY_" + std::to_string(id) + "]" : tokens[id];
        if (!seen.insert(token).second) refuse("%s: token %zu of the vocabulary stands in it twice", path, id);
    }
    for (const char* name : {"bos", "eos"}) {
        const std::string add = std::string("tokenizer.ggml.add_") + name + "_token";
        const std::string id = std::string("tokenizer.ggml.") + name + "_token_id";
        if (file.integer_or(add, 0) == 0 || (model == "llama" && !file.has(id))) continue;  // llama has defaults
        if (!file.has(id) || file.integer(id) < 0 || file.integer(id) >= static_cast<int64_t>(tokens.size())) {
            refuse("%s: metadata key %s asks for a token that %s does not give", path, add.c_str(), id.c_str());
        }
    }
}

// Those that it asserts while it tokenizes: a token that begins or ends each text, by the file's word or by a default of the
// kind of tokenizer, may be one that the vocabulary lacks.
void check_after(const GgufFile& file, const llama_vocab* vocabulary) {
    const auto require = [&](bool added, llama_token id, const char* name) {
        if (added && id == LLAMA_TOKEN_NULL) {
            refuse("%s: its tokenizer puts a token %s to each text, but tokenizer.ggml.%s_token_id does not say which",
                   file.path().c_str(), name, name);
        }
    };
    require(llama_vocab_get_add_bos(vocabulary), llama_vocab_bos(vocabulary), "bos");
    require(llama_vocab_get_add_eos(vocabulary), llama_vocab_eos(vocabulary), "eos");
}

}  // namespace

// llama.cpp throws where a vocabulary lacks a token that it takes for granted.
template <class Body>
int32_t Vocabulary::convert(Body body) const {
    try {
        return body();
    } catch (const std::out_of_range&) {
        refuse("%s: the vocabulary is damaged: it lacks tokens for single bytes", path_.c_str());
    }
}

Vocabulary::Vocabulary(const GgufFile& file) : path_(file.path()) {
    check_before(file);
    const LlamaLog log;
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    model_.reset(llama_model_init_from_user(file.header(), nullptr, nullptr, params));
    if (!model_) {
        refuse("llama.cpp cannot read the vocabulary of %s: %s", path_.c_str(),
               log.first_error("no reason given").c_str());
    }
    vocabulary_ = llama_model_get_vocab(model_.get());
    check_after(file, vocabulary_);
}

std::vector<int32_t> Vocabulary::tokenize(const char* text, int64_t n_bytes, bool add_special,
                                          bool parse_special) const {
    if (n_bytes > INT32_MAX / 2) refuse("a text of %lld bytes is too long to tokenize", (long long)n_bytes);
    std::vector<int32_t> tokens(static_cast<size_t>(n_bytes / 3 + 16));
    const auto run = [&] {
        return llama_tokenize(vocabulary_, text, static_cast<int32_t>(n_bytes), tokens.data(),
                              static_cast<int32_t>(tokens.size()), add_special, parse_special);
    };
    int32_t n = 0;
    const auto run_twice = [&] {
        n = convert(run);
        if (n >= 0) return;
        tokens.resize(static_cast<size_t>(-n));  // the size that is needed
        n = convert(run);
    };
    if (n_bytes <= kShallowBytes) {
        run_twice();
    } else {
        with_deep_stack(kLeastStack + static_cast<size_t>(n_bytes) * kStackPerByte, run_twice);
    }
    if (n < 0) refuse("llama.cpp cannot tokenize a text of %lld bytes", (long long)n_bytes);
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

std::string Vocabulary::detokenize(const int32_t* tokens, int64_t n_tokens, bool render_special) const {
    const int32_t V = llama_vocab_n_tokens(vocabulary_);
    for (int64_t i = 0; i < n_tokens; ++i) {
        if (tokens[i] < 0 || tokens[i] >= V) refuse("token %d is out of range; the vocabulary has %d", tokens[i], V);
    }
    std::string text(static_cast<size_t>(n_tokens * 8 + 16), '\0');
    const auto run = [&] {
        return llama_detokenize(vocabulary_, tokens, static_cast<int32_t>(n_tokens), &text[0],
                                static_cast<int32_t>(text.size()), false, render_special);
    };
    int32_t n = convert(run);
    if (n < 0) {
        text.resize(static_cast<size_t>(-n));
        n = convert(run);
    }
    if (n < 0) refuse("llama.cpp cannot detokenize %lld tokens", (long long)n_tokens);
    text.resize(static_cast<size_t>(n));
    return text;
}

}  // namespace cpuft
