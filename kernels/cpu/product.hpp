// Products of a few rows of x with a weight.
#pragma once

#include <cstdint>

#include "values.hpp"

namespace tilepress {

// The most rows of x that `multiply` of any family takes.
constexpr std::int64_t kMostVectors = 8;

// y = x @ weight.T + bias for `count` rows of x, 1..kMostVectors of them.
struct Product {
    const void* x;     // [count][columns], without gaps
    const void* bias;  // [rows], or null
    void* y;           // [count][rows], without gaps
    Dtype dtype;       // of x, bias and y
    std::int64_t count;
    std::int64_t columns;
    Range rows;
};

}  // namespace tilepress
