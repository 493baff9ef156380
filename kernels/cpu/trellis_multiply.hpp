// Decoding of trellis codes and products with them, in the rotated basis, for every instruction set.
//
// Beside what product_values.hpp says, a `Set` offers
//
//     decode_tile<bits>(tile, mask, values)                 the integers of a tile, [16][16]
//     multiply_panel<bits>(weight, panel, mask, x, sums)    those of a panel times one row of x, 16 sums
//
// where `tile` is a tile's bytes followed by its first ones, so that no window ends early. Everything is in an unnamed
// namespace, for the reason that floats.hpp gives.
#pragma once

#include <cstring>

#include "floats.hpp"
#include "product_values.hpp"
#include "trellis.hpp"

namespace tilepress {
namespace {

// Bytes that are read after a tile: those of the last thread's last window.
constexpr std::size_t kBeyond = 32;

template <int kBits>
struct CyclicTile {
    static constexpr std::size_t kBytes = 32 * kBits;
    alignas(64) std::uint8_t bytes[kBytes + kBeyond];

    void load(const std::uint8_t* tile) {
        std::memcpy(bytes, tile, kBytes);
        std::memcpy(bytes + kBytes, tile, kBeyond);
    }
};

template <int kBits>
const std::uint8_t* tile_at(const TrellisWeight& weight, std::int64_t panel, std::int64_t tile) {
    return weight.codes + (panel * weight.tiles + tile) * 32 * kBits;
}

inline std::uint32_t state_mask(const TrellisWeight& weight) {
    return (1u << weight.window) - 1;
}

template <class Set, int kBits>
void decode_panels(const TrellisWeight& weight, Range panels, std::int64_t first, Dtype dtype, void* values) {
    const std::uint32_t mask = state_mask(weight);
    const std::int64_t width = weight.tiles * kSide;
    CyclicTile<kBits> codes;
    alignas(64) float integers[kSide * kSide];
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        auto* to = static_cast<std::byte*>(values) + (panel - first) * kSide * width * size_of(dtype);
        for (std::int64_t tile = 0; tile < weight.tiles; ++tile) {
            codes.load(tile_at<kBits>(weight, panel, tile));
            Set::template decode_tile<kBits>(codes.bytes, mask, integers);
            for (std::int64_t row = 0; row < kSide; ++row) {
                const auto scale = Set::broadcast(float_of_bf16(weight.scales[panel * kSide + row]));
                store_values<Set>(Set::multiply(Set::load(integers + row * kSide), scale),
                                  to + (row * width + tile * kSide) * size_of(dtype), dtype);
            }
        }
    }
}

// Several rows of x: each tile is decoded once, into the nearest cache.
template <class Set, int kBits>
void multiply_several(const TrellisWeight& weight, std::int64_t panel, const float* x, std::int64_t count,
                      float (*sums)[kSide]) {
    const std::uint32_t mask = state_mask(weight);
    const std::int64_t width = weight.tiles * kSide;
    CyclicTile<kBits> codes;
    alignas(64) float integers[kSide * kSide];
    alignas(64) float totals[kMostVectors * kSide * kSide] = {};
    for (std::int64_t tile = 0; tile < weight.tiles; ++tile) {
        codes.load(tile_at<kBits>(weight, panel, tile));
        Set::template decode_tile<kBits>(codes.bytes, mask, integers);
        for (std::int64_t vector = 0; vector < count; ++vector) {
            const auto of_x = Set::load(x + vector * width + tile * kSide);
            float* total = totals + vector * kSide * kSide;
            for (std::int64_t row = 0; row < kSide; ++row, total += kSide)
                Set::store(total, Set::multiply_add(Set::load(integers + row * kSide), of_x, Set::load(total)));
        }
    }
    for (std::int64_t vector = 0; vector < count; ++vector)
        for (std::int64_t row = 0; row < kSide; ++row)
            sums[vector][row] = Set::sum(Set::load(totals + (vector * kSide + row) * kSide));
}

template <class Set, int kBits>
void multiply_panels(const TrellisWeight& weight, Range panels, std::int64_t first, const float* x, std::int64_t count,
                     std::int64_t height, float* y) {
    alignas(64) float sums[kMostVectors][kSide];
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        if (count == 1)
            Set::template multiply_panel<kBits>(weight, panel, state_mask(weight), x, sums[0]);
        else
            multiply_several<Set, kBits>(weight, panel, x, count, sums);
        for (std::int64_t vector = 0; vector < count; ++vector)
            for (std::int64_t row = 0; row < kSide; ++row)
                y[vector * height + (panel - first) * kSide + row] =
                    sums[vector][row] * float_of_bf16(weight.scales[panel * kSide + row]);
    }
}

template <class Set>
void decode(const TrellisWeight& weight, Range panels, std::int64_t first, Dtype dtype, void* values) {
    constexpr decltype(&decode<Set>) functions[] = {decode_panels<Set, 1>, decode_panels<Set, 2>, decode_panels<Set, 3>,
                                                    decode_panels<Set, 4>, decode_panels<Set, 5>, decode_panels<Set, 6>,
                                                    decode_panels<Set, 7>, decode_panels<Set, 8>};
    functions[weight.bits - 1](weight, panels, first, dtype, values);
}

template <class Set>
void multiply(const TrellisWeight& weight, Range panels, std::int64_t first, const float* x, std::int64_t count,
              std::int64_t height, float* y) {
    constexpr decltype(&multiply<Set>) functions[] = {
        multiply_panels<Set, 1>, multiply_panels<Set, 2>, multiply_panels<Set, 3>, multiply_panels<Set, 4>,
        multiply_panels<Set, 5>, multiply_panels<Set, 6>, multiply_panels<Set, 7>, multiply_panels<Set, 8>};
    functions[weight.bits - 1](weight, panels, first, x, count, height, y);
}

}  // namespace
}  // namespace tilepress
