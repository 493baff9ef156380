#include "instruction_sets.hpp"

namespace tilepress {
namespace {

#if defined(TILEPRESS_AVX2)
bool runs_avx2() {
    // F16C is older than AVX2, and not all compilers can ask for it.
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
#endif
#if defined(TILEPRESS_AVX512)
bool runs_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}
#endif

}  // namespace

std::vector<std::string> supported_instruction_sets() {
    std::vector<std::string> supported = {"portable"};
#if defined(TILEPRESS_AVX2)
    if (runs_avx2()) supported.emplace_back("avx2");
#endif
#if defined(TILEPRESS_AVX512)
    if (runs_avx512()) supported.emplace_back("avx512");
#endif
    return supported;
}

}  // namespace tilepress
