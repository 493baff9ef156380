// Arithmetic of sizes, in an unnamed namespace for the reason that floats.hpp gives.
#pragma once

#include <cstdint>

namespace tilepress {
namespace {

inline std::int64_t smaller(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}
inline std::int64_t larger(std::int64_t a, std::int64_t b) {
    return a > b ? a : b;
}
inline std::int64_t rounded_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

}  // namespace
}  // namespace tilepress
