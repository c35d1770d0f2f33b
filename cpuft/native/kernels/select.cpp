#include <cstring>
#include <string>

#include "../error.h"
#include "kernels.h"

namespace cpuft {

namespace {

struct Candidate {
    const KernelTable* table;
    bool supported;
};

}  // namespace

const KernelTable& select_kernels(const char* isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    const Candidate best_first[] = {{&kAvx512Bf16Kernels, avx512bf16},
                                    {&kAvx512Kernels, avx512},
                                    {&kAvx2Kernels, avx2},
                                    {&kReferenceKernels, true}};
#else
    const Candidate best_first[] = {{&kReferenceKernels, true}};
#endif
    std::string known;
    for (const Candidate& candidate : best_first) {
        const bool named = isa != nullptr && std::strcmp(isa, candidate.table->name) == 0;
        if (candidate.supported && (isa == nullptr || named)) return *candidate.table;
        if (named)
            refuse("this CPU lacks the instructions of isa \"%s\"; leave CPUFT_ISA unset to take the best it has", isa);
        known = std::string(candidate.table->name) + (known.empty() ? "" : ", ") + known;
    }
    refuse("unknown isa \"%s\"; this build knows %s", isa, known.c_str());
}

}  // namespace cpuft
