// The architectures that the engine knows: one row of facts each.
#pragma once

#include <string>

namespace cpuft {

// Which two values of a head a rotation of RoPE turns.
enum class RopePairs {
    kAdjacent,  // (2i, 2i + 1): Llama as GGUF stores it
    kHalves,    // (i, i + n/2): the "NeoX" order
};

struct Architecture {
    const char* name;  // as in general.architecture, and the prefix of its metadata keys
    RopePairs rope_pairs;
};

// Throws InputError for an unknown name, with the list of known ones; path is the file that names it.
const Architecture& find_architecture(const std::string& name, const std::string& path);

}  // namespace cpuft
