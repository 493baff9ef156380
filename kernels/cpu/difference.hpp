// How far the values that parts decode to are from those that were encoded.
#pragma once

#include <cstdint>

#include "values.hpp"

namespace tilepress {

// Values with the same bits, and pairs of NaN, count as equal; another difference that is NaN counts in the sum only.
struct Difference {
    double largest;  // magnitude
    double squares;  // sum of the squares of the differences
    double energy;   // sum of the squares of the true values
};

// Of `count` values of a dtype. Sums are taken in one order, whatever the processor.
Difference difference(const void* truth, const void* found, Dtype dtype, std::int64_t count);

}  // namespace tilepress
