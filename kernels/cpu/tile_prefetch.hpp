// Codes are asked for ahead of their use; a part of the units of x86 instruction sets.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tilepress {
namespace {

// Ask for the codes that come two pages later: the processor's own guesses end with each page.
inline void prefetch(const std::uint8_t* tile, std::int64_t bytes) {
    constexpr std::uintptr_t ahead = 8192;
    const auto address = reinterpret_cast<std::uintptr_t>(tile) + ahead;
    for (std::int64_t line = 0; line < bytes; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(address + static_cast<std::uintptr_t>(line)), _MM_HINT_T1);
}

}  // namespace
}  // namespace tilepress
