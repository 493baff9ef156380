// exp of 16 float32 at a time. Beside what product_values.hpp says, a `Set` offers
//
//     maximum       of each lane; the second where one is NaN
//     exponent      2^n for n + 127 in the lowest bits of float32, zero for n = -127
//
// In an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <initializer_list>

namespace tilepress {
namespace {

// exp(x) for x <= 0, within two units in the last place; what is smaller than 2^-126 becomes 0.
template <class Set>
typename Set::Values exponential(typename Set::Values x) {
    using Values = typename Set::Values;
    // Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits; 127 is the bias of exponents.
    const Values shift = Set::broadcast(0x1.8p23f + 127.0f);
    x = Set::maximum(Set::broadcast(-88.02969f), x);  // 2^-127
    const Values shifted = Set::add(Set::multiply(x, Set::broadcast(0x1.715476p0f)), shift);
    const Values whole = Set::subtract(shifted, shift);
    Values rest = Set::multiply_add(whole, Set::broadcast(-0x1.62e4p-1f), x);
    rest = Set::multiply_add(whole, Set::broadcast(-0x1.7f7d1cp-20f), rest);
    Values sum = Set::broadcast(1.0f / 5040);
    for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f})
        sum = Set::multiply_add(sum, rest, Set::broadcast(term));
    return Set::multiply(sum, Set::exponent(shifted));
}

}  // namespace
}  // namespace tilepress
