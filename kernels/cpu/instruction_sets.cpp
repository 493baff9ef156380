#include "instruction_sets.hpp"

namespace tilepress {

bool is_supported(InstructionSet set) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi2") &&
                        __builtin_cpu_supports("avx512bf16");
    switch (set) {
        case InstructionSet::portable:
            return true;
        case InstructionSet::avx2:
            return avx2;
        case InstructionSet::avx512:
            return avx512;
    }
    return false;
#else
    return set == InstructionSet::portable;
#endif
}

}  // namespace tilepress
