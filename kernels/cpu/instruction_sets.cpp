#include "instruction_sets.hpp"

namespace tilepress {

std::vector<std::string> supported_instruction_sets() {
    std::vector<std::string> supported = {"portable"};
#if defined(TILEPRESS_X86)
    // F16C is older than AVX2, and not all compilers can ask for it.
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2"))
        return supported;
    supported.emplace_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bf16"))
        supported.emplace_back("avx512");
#endif
    return supported;
}

}  // namespace tilepress
