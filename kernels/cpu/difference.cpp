#include "difference.hpp"

#include "floats.hpp"

namespace tilepress {
namespace {

struct Lanes {
    double largest[kSide] = {}, squares[kSide] = {}, energy[kSide] = {};

    void add(const float* truth, const float* found) {
        for (int lane = 0; lane < kSide; ++lane) {
            const double a = truth[lane], b = found[lane];
            const bool is_same = (a == b) | ((a != a) & (b != b));
            const double gap = is_same ? 0.0 : b - a;
            const double magnitude = gap < 0.0 ? -gap : gap;
            largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
            squares[lane] += gap * gap;
            energy[lane] += a * a;
        }
    }
};

struct Float32 {
    using Stored = float;
    static float value(float stored) { return stored; }
};
struct Bfloat16 {
    using Stored = std::uint16_t;
    static float value(std::uint16_t stored) { return float_of_bf16(stored); }
};
struct Float16 {
    using Stored = std::uint16_t;
    static float value(std::uint16_t stored) { return float_of_fp16(stored); }
};

template <class Format>
void read(const void* values, std::int64_t first, std::int64_t count, float* to) {
    const auto* stored = static_cast<const typename Format::Stored*>(values) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = Format::value(stored[i]);
}

template <class Format>
Difference difference_in(const void* truth, const void* found, std::int64_t count) {
    Lanes lanes;
    float from[kSide], to[kSide];
    std::int64_t first = 0;
    for (; first + kSide <= count; first += kSide) {
        read<Format>(truth, first, kSide, from);
        read<Format>(found, first, kSide, to);
        lanes.add(from, to);
    }
    for (int lane = 0; lane < kSide; ++lane) from[lane] = to[lane] = 0.0f;
    read<Format>(truth, first, count - first, from);
    read<Format>(found, first, count - first, to);
    lanes.add(from, to);
    Difference all{};
    for (int lane = 0; lane < kSide; ++lane) {
        all.largest = lanes.largest[lane] > all.largest ? lanes.largest[lane] : all.largest;
        all.squares += lanes.squares[lane];
        all.energy += lanes.energy[lane];
    }
    return all;
}

}  // namespace

Difference difference(const void* truth, const void* found, Dtype dtype, std::int64_t count) {
    switch (dtype) {
        case Dtype::float32:
            return difference_in<Float32>(truth, found, count);
        case Dtype::bfloat16:
            return difference_in<Bfloat16>(truth, found, count);
        default:
            return difference_in<Float16>(truth, found, count);
    }
}

}  // namespace tilepress
