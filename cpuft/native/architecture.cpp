#include "architecture.h"

#include "error.h"

namespace cpuft {

namespace {

constexpr Architecture kArchitectures[] = {
    {"llama", RopePairs::kAdjacent},  // Llama 2, 3, 3.1, 3.2; Mistral; TinyLlama; SmolLM2
    {"qwen2", RopePairs::kHalves},    // Qwen 2, 2.5; its q/k/v biases are found by their tensors
};

}  // namespace

const Architecture& find_architecture(const std::string& name, const std::string& path) {
    std::string known;
    for (const Architecture& architecture : kArchitectures) {
        if (name == architecture.name) return architecture;
        known += (known.empty() ? "" : ", ") + std::string(architecture.name);
    }
    refuse("%s has architecture \"%s\", which is not supported; cpuft trains %s", path.c_str(), printable(name).c_str(),
           known.c_str());
}

}  // namespace cpuft
