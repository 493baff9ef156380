// What the bindings of every family of kernels share: tensors as addresses and lengths in bytes, and their checks.
//
// Every length is checked against what the kernels will touch, so that no parameter can lead them astray; the Python
// side checks dtypes, contiguity and devices.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "instruction_sets.hpp"
#include "values.hpp"

namespace tilepress {

// Address and length in bytes; (0, -1) where there is no such tensor.
using Buffer = std::pair<std::uintptr_t, std::int64_t>;
using Bounds = std::pair<std::int64_t, std::int64_t>;

// Far more than memory holds, and small enough that no product of two below overflows.
constexpr std::int64_t kMost = std::int64_t{1} << 40;
// Weights that are worth waking a thread for.
constexpr std::int64_t kPieceValues = std::int64_t{1} << 16;
// Results that are larger are written past the caches.
constexpr std::int64_t kCachedBytes = std::int64_t{16} << 20;

// Throws `std::invalid_argument`, which Python sees as ValueError.
inline void require(bool condition, const char* sentence) {
    if (!condition) throw std::invalid_argument(sentence);
}

// True when a buffer has room for exactly a * b * c bytes.
inline bool holds(const Buffer& buffer, std::int64_t a, std::int64_t b, std::int64_t c) {
    if (a == 0 || b == 0 || c == 0) return buffer.second == 0;
    return buffer.second % c == 0 && buffer.second / c % b == 0 && buffer.second / c / b == a;
}

inline Dtype dtype_named(const std::string& name) {
    if (name == "float32") return Dtype::float32;
    if (name == "bfloat16") return Dtype::bfloat16;
    if (name == "float16") return Dtype::float16;
    throw std::invalid_argument("there is no kernel for this dtype");
}

inline Range checked_range(const Bounds& bounds, std::int64_t most) {
    require(0 <= bounds.first && bounds.first <= bounds.second && bounds.second <= most,
            "a range is outside the weight");
    return {bounds.first, bounds.second};
}

template <class Kernels>
Kernels kernels_named(const std::string& set, Kernels (*portable)(), Kernels (*avx2)(), Kernels (*avx512)()) {
    for (const std::string& supported : supported_instruction_sets()) {
        if (supported != set) continue;
        if (set == "avx512") return avx512();
        return set == "avx2" ? avx2() : portable();
    }
    throw std::invalid_argument("this machine can't run code of this instruction set");
}

}  // namespace tilepress

// Units of instruction sets that were not built have no table; `supported_instruction_sets` leaves them out.
#if defined(TILEPRESS_AVX2)
#define TILEPRESS_AVX2_TABLE(family) avx2_##family##_kernels
#else
#define TILEPRESS_AVX2_TABLE(family) portable_##family##_kernels
#endif
#if defined(TILEPRESS_AVX512)
#define TILEPRESS_AVX512_TABLE(family) avx512_##family##_kernels
#else
#define TILEPRESS_AVX512_TABLE(family) portable_##family##_kernels
#endif

// The kernels of a family, for the instruction set of this name.
#define TILEPRESS_KERNELS(family, set) \
    kernels_named(set, portable_##family##_kernels, TILEPRESS_AVX2_TABLE(family), TILEPRESS_AVX512_TABLE(family))
