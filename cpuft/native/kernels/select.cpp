#include <cstring>
#include <string>

#include "../error.h"
#include "kernels.h"

namespace cpuft {

namespace {

struct Candidate {
    const KernelTable* table;
    bool supported;
    bool fast = true;  // whether it is worth more than the next one; where not, it must be asked for by name
};

}  // namespace

const KernelTable& select_kernels(const char* isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool avx512vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    const bool avx512bf16 = avx512vnni && __builtin_cpu_supports("avx512bf16");
    const bool avxvnni = avx2 && __builtin_cpu_supports("avxvnni");
    // vdpbf16ps has twice the rate of float32 on AMD's Zen 4 and 5, but half of it on Intel's Emerald Rapids (86 against 175
    // Gop/s a core, by benchmarks/peak.cpp), where bfloat16 is AMX's business.
    const bool fast_bf16 = !__builtin_cpu_is("intel");
    const Candidate best_first[] = {{&kAvx512Bf16Kernels, avx512bf16, fast_bf16},
                                    {&kAvx512VnniKernels, avx512vnni},
                                    {&kAvx512Kernels, avx512},
                                    {&kAvxVnniKernels, avxvnni},
                                    {&kAvx2Kernels, avx2},
                                    {&kReferenceKernels, true}};
#else
    const Candidate best_first[] = {{&kReferenceKernels, true}};
#endif
    std::string known;
    for (const Candidate& candidate : best_first) {
        const bool named = isa != nullptr && std::strcmp(isa, candidate.table->name) == 0;
        if (candidate.supported && (named || (isa == nullptr && candidate.fast))) return *candidate.table;
        if (named)
            refuse("this CPU lacks the instructions of isa \"%s\"; leave CPUFT_ISA unset to take the best it has", isa);
        known = std::string(candidate.table->name) + (known.empty() ? "" : ", ") + known;
    }
    refuse("unknown isa \"%s\"; this build knows %s", isa, known.c_str());
}

}  // namespace cpuft
