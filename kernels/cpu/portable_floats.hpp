// Float32 values in plain loops, which compilers turn into what vectors there are.
// The part of `Set` (product_values.hpp, exponential.hpp) that all families share.
#pragma once

#include <cstring>

#include "floats.hpp"
#include "values.hpp"

namespace tilepress {
namespace {

struct PortableFloats {
    struct Values {
        float of[kSide];
    };
    static constexpr std::int64_t most_vectors = 2;

    template <class Function>
    static Values each(Function function) {
        Values values;
        for (int i = 0; i < kSide; ++i) values.of[i] = function(i);
        return values;
    }
    static Values broadcast(float value) {
        return each([&](int) { return value; });
    }
    static Values load(const float* from) {
        return each([&](int i) { return from[i]; });
    }
    static void store(float* to, const Values& values) { std::memcpy(to, values.of, sizeof values.of); }
    static Values add(const Values& a, const Values& b) {
        return each([&](int i) { return a.of[i] + b.of[i]; });
    }
    static Values subtract(const Values& a, const Values& b) {
        return each([&](int i) { return a.of[i] - b.of[i]; });
    }
    static Values multiply(const Values& a, const Values& b) {
        return each([&](int i) { return a.of[i] * b.of[i]; });
    }
    static Values multiply_add(const Values& a, const Values& b, const Values& c) {
        return each([&](int i) { return a.of[i] * b.of[i] + c.of[i]; });
    }
    static Values maximum(const Values& a, const Values& b) {
        return each([&](int i) { return a.of[i] > b.of[i] ? a.of[i] : b.of[i]; });
    }
    static Values exponent(const Values& shifted) {
        return each([&](int i) { return float_of_bits(bits_of_float(shifted.of[i]) << 23); });
    }
    static float sum(const Values& values) {
        float halves[8];
        for (int i = 0; i < 8; ++i) halves[i] = values.of[i] + values.of[i + 8];
        for (int step = 4; step > 0; step /= 2)
            for (int i = 0; i < step; ++i) halves[i] += halves[i + step];
        return halves[0];
    }
    static Values load_bf16(const std::uint16_t* from) {
        return each([&](int i) { return float_of_bf16(from[i]); });
    }
    static Values load_fp16(const std::uint16_t* from) {
        return each([&](int i) { return float_of_fp16(from[i]); });
    }
    static Values from_e4m3(const std::uint8_t* codes) {
        return each([&](int i) { return float_of_fp16(fp16_of_e4m3(codes[i])) * 256.0f; });
    }
    static void store_bf16(std::uint16_t* to, const Values& values) {
        for (int i = 0; i < kSide; ++i) to[i] = bf16_of_float(values.of[i]);
    }
    static void store_fp16(std::uint16_t* to, const Values& values) {
        for (int i = 0; i < kSide; ++i) to[i] = fp16_of_float(values.of[i]);
    }
};

}  // namespace
}  // namespace tilepress
