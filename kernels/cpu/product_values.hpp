// What the products of all families share: x, bias and y, 16 values at a time.
//
// An instruction set is a type `Set` with
//
//     Values                        16 float32
//     broadcast, load, store, add, multiply_add, sum
//     load_bf16, load_fp16, store_bf16, store_fp16       rounded to nearest, ties to even
//     most_vectors                                       rows of x that are worth multiplying at a time
//
// Everything is in an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <cstddef>
#include <cstring>

#include "arithmetic.hpp"
#include "product.hpp"

namespace tilepress {
namespace {

// 16 values of a row of x, bias or y; outside of `count` they are zero.
template <class Set>
typename Set::Values load_values(const void* values, Dtype dtype, std::int64_t first, std::int64_t count) {
    alignas(64) std::byte copy[kSide * 4] = {};
    const std::byte* from = static_cast<const std::byte*>(values) + first * size_of(dtype);
    if (count < kSide) {
        std::memcpy(copy, from, static_cast<std::size_t>(count * size_of(dtype)));
        from = copy;
    }
    if (dtype == Dtype::float32) return Set::load(reinterpret_cast<const float*>(from));
    const auto* halves = reinterpret_cast<const std::uint16_t*>(from);
    return dtype == Dtype::bfloat16 ? Set::load_bf16(halves) : Set::load_fp16(halves);
}

template <class Set>
void store_values(typename Set::Values values, void* to, Dtype dtype) {
    if (dtype == Dtype::float32) return Set::store(static_cast<float*>(to), values);
    if (dtype == Dtype::bfloat16) return Set::store_bf16(static_cast<std::uint16_t*>(to), values);
    Set::store_fp16(static_cast<std::uint16_t*>(to), values);
}

// The first `count` of 16 values.
template <class Set>
void store_some(typename Set::Values values, void* to, Dtype dtype, std::int64_t count) {
    if (count == kSide) return store_values<Set>(values, to, dtype);
    alignas(64) std::byte whole[kSide * 4];
    store_values<Set>(values, whole, dtype);
    std::memcpy(to, whole, static_cast<std::size_t>(count * size_of(dtype)));
}

// Add the bias to the panel's 16 results, round them, and write those of the range.
template <class Set>
void finish(const Product& product, std::int64_t panel, std::int64_t vector, const float* results) {
    const std::int64_t first = larger(panel * kSide, product.rows.first);
    const std::int64_t last = smaller((panel + 1) * kSide, product.rows.last);
    const std::int64_t size = size_of(product.dtype);
    alignas(64) float wanted[kSide] = {};
    std::memcpy(wanted, results + (first - panel * kSide), static_cast<std::size_t>(last - first) * sizeof(float));
    auto values = Set::load(wanted);
    if (product.bias != nullptr) {
        const auto bias = load_values<Set>(product.bias, product.dtype, first - product.rows.first, last - first);
        values = Set::add(values, bias);
    }
    alignas(64) std::byte rounded[kSide * 4];
    store_values<Set>(values, rounded, product.dtype);
    const std::int64_t row = vector * (product.rows.last - product.rows.first) + first - product.rows.first;
    std::memcpy(static_cast<std::byte*>(product.y) + row * size, rounded,
                static_cast<std::size_t>((last - first) * size));
}

// Values that x takes in float32: each row filled up to a multiple of 16 columns.
inline std::int64_t x_values(const Product& product) {
    return product.count * rounded_up(product.columns, kSide);
}

// x in float32, [count][columns filled up with zeros].
template <class Set>
void x_in_float32(const Product& product, float* to) {
    for (std::int64_t vector = 0; vector < product.count; ++vector)
        for (std::int64_t column = 0; column < product.columns; column += kSide, to += kSide) {
            const std::int64_t count = smaller(kSide, product.columns - column);
            Set::store(to, load_values<Set>(product.x, product.dtype, vector * product.columns + column, count));
        }
}

}  // namespace
}  // namespace tilepress
