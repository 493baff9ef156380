// The kernels of decoder.hpp, written once. An instruction set is a type `Set` with what product_values.hpp and
// exponential.hpp ask for, and
//
//     multiply
//
// Everything is in an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <cmath>

#include "decoder.hpp"
#include "dense_kernels.hpp"
#include "exponential.hpp"
#include "product_values.hpp"

namespace tilepress {
namespace {

template <class Set>
typename Set::Values rounded(typename Set::Values values, Dtype dtype) {
    if (dtype == Dtype::float32) return values;
    alignas(64) std::byte copy[kSide * 2];
    store_values<Set>(values, copy, dtype);
    return load_values<Set>(copy, dtype, 0, kSide);
}

inline void* place_of(void* values, Dtype dtype, std::int64_t index) {
    return static_cast<std::byte*>(values) + index * size_of(dtype);
}

// to[i] = function(i, values in reach) for 16 values at a time from `first` on.
template <class Set, class Function>
void store_each(void* to, Dtype dtype, Range range, const Function& function) {
    for (std::int64_t i = range.first; i < range.last; i += kSide) {
        const std::int64_t count = smaller(kSide, range.last - i);
        store_some<Set>(function(i, count), place_of(to, dtype, i), dtype, count);
    }
}

template <class Set>
void add(Dtype dtype, std::int64_t count, const void* addend, void* values) {
    store_each<Set>(values, dtype, {0, count}, [&](std::int64_t i, std::int64_t some) {
        return Set::add(load_values<Set>(values, dtype, i, some), load_values<Set>(addend, dtype, i, some));
    });
}

template <class Set>
void normalize(Dtype dtype, std::int64_t count, const void* x, const void* weight, float epsilon, void* y) {
    auto squares = Set::broadcast(0.0f);
    for (std::int64_t i = 0; i < count; i += kSide) {
        const auto values = load_values<Set>(x, dtype, i, smaller(kSide, count - i));
        squares = Set::multiply_add(values, values, squares);
    }
    const auto factor = Set::broadcast(1.0f / std::sqrt(Set::sum(squares) / static_cast<float>(count) + epsilon));
    store_each<Set>(y, dtype, {0, count}, [&](std::int64_t i, std::int64_t some) {
        const auto values = Set::multiply(load_values<Set>(x, dtype, i, some), factor);
        return Set::multiply(rounded<Set>(values, dtype), load_values<Set>(weight, dtype, i, some));
    });
}

template <class Set>
void rotate(Dtype dtype, std::int64_t count, const void* cosines, const void* sines, void* x) {
    const std::int64_t half = count / 2;
    const auto product = [&](const void* factors, std::int64_t at, const typename Set::Values& values,
                             std::int64_t some) {
        return rounded<Set>(Set::multiply(values, load_values<Set>(factors, dtype, at, some)), dtype);
    };
    for (std::int64_t i = 0; i < half; i += kSide) {
        const std::int64_t some = smaller(kSide, half - i);
        const auto left = load_values<Set>(x, dtype, i, some), right = load_values<Set>(x, dtype, half + i, some);
        const auto minus_right = Set::multiply(Set::broadcast(-1.0f), right);
        store_some<Set>(Set::add(product(cosines, i, left, some), product(sines, i, minus_right, some)),
                        place_of(x, dtype, i), dtype, some);
        store_some<Set>(Set::add(product(cosines, half + i, right, some), product(sines, half + i, left, some)),
                        place_of(x, dtype, half + i), dtype, some);
    }
}

// x / (1 + exp(-x)), with an exponential of numbers up to 0 only.
template <class Set>
typename Set::Values silu(typename Set::Values x) {
    alignas(64) float values[kSide], powers[kSide];
    Set::store(values, x);
    for (int i = 0; i < kSide; ++i) powers[i] = -std::fabs(values[i]);
    Set::store(powers, exponential<Set>(Set::load(powers)));
    for (int i = 0; i < kSide; ++i) values[i] *= (values[i] < 0.0f ? powers[i] : 1.0f) / (1.0f + powers[i]);
    return Set::load(values);
}

template <class Set, class Function>
typename Set::Values each_value(typename Set::Values x, const Function& function) {
    alignas(64) float values[kSide];
    Set::store(values, x);
    for (float& value : values) value = function(value);
    return Set::load(values);
}

inline float gelu(float x) {
    return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
}

inline float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}

template <class Set>
void activate(Activation activation, Dtype dtype, std::int64_t count, const void* gate, const void* up, void* y) {
    store_each<Set>(y, dtype, {0, count}, [&](std::int64_t i, std::int64_t some) {
        auto values = load_values<Set>(gate, dtype, i, some);
        if (activation == Activation::silu)
            values = silu<Set>(values);
        else if (activation == Activation::gelu)
            values = each_value<Set>(values, gelu);
        else
            values = each_value<Set>(values, gelu_tanh);
        return Set::multiply(rounded<Set>(values, dtype), load_values<Set>(up, dtype, i, some));
    });
}

template <class Set>
void merge(Dtype dtype, std::int64_t count, const float* partials, std::int64_t spans, std::int64_t step,
           void* result) {
    float highest = partials[0];
    for (std::int64_t span = 1; span < spans; ++span) highest = std::fmax(highest, partials[span * step]);
    const auto share = [&](std::int64_t span) { return std::exp(partials[span * step] - highest); };
    float total = 0.0f;
    for (std::int64_t span = 0; span < spans; ++span) total += share(span) * partials[span * step + 1];
    store_each<Set>(result, dtype, {0, count}, [&](std::int64_t i, std::int64_t) {
        auto sum = Set::broadcast(0.0f);
        for (std::int64_t span = 0; span < spans; ++span)
            sum = Set::multiply_add(Set::load(partials + span * step + kSide + i), Set::broadcast(share(span) / total),
                                    sum);
        return sum;
    });
}

template <class Set>
DecoderKernels decoder_kernels() {
    return {add<Set>,      normalize<Set>, rotate<Set>,
            activate<Set>, merge<Set>,     {decode_dense<Set>, x_in_float32<Set>, multiply_dense<Set>}};
}

}  // namespace
}  // namespace tilepress
