// Decoding of trellis codes and products with them, in the rotated basis, for every instruction set.
//
// Beside what product_values.hpp says, a `Set` offers
//
//     decode_tile<bits>(tile, mask, values)          the integers of a tile, [16][16]
//     multiply_tiles<bits>(tiles, mask, x, sums)     sums of byte sums times x, mod 2^32, for each plane and row
//
// where tiles are `CyclicTiles`: each one's bytes are followed by its first ones, so that no window ends early.
// Everything is in an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <cstring>

#include "floats.hpp"
#include "product_values.hpp"
#include "trellis.hpp"

namespace tilepress {
namespace {

// Bytes that are read after a tile: those of the last thread's last window.
constexpr std::int64_t kBeyond = 32;
constexpr std::int64_t kBlockTiles = kTrellisBlock / kSide;
constexpr std::int64_t kMostPlanes = 2 * kMostVectors;

// Neighbouring tiles of a panel, as many as are multiplied at a time.
template <int kBits>
struct CyclicTiles {
    static constexpr std::int64_t kBytes = 32 * kBits;
    static constexpr std::int64_t kStride = kBytes + kBeyond;
    alignas(64) std::uint8_t bytes[kBlockTiles * kStride];
    std::int64_t count = 0;

    void load(const std::uint8_t* codes, std::int64_t tiles) {
        count = tiles;
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            std::memcpy(bytes + tile * kStride, codes + tile * kBytes, kBytes);
            std::memcpy(bytes + tile * kStride + kBytes, codes + tile * kBytes, kBeyond);
        }
    }
    const std::uint8_t* tile(std::int64_t index) const { return bytes + index * kStride; }
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
    CyclicTiles<kBits> codes;
    alignas(64) float integers[kSide * kSide];
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        auto* to = static_cast<std::byte*>(values) + (panel - first) * kSide * width * size_of(dtype);
        for (std::int64_t tile = 0; tile < weight.tiles; ++tile) {
            if (tile % kBlockTiles == 0)
                codes.load(tile_at<kBits>(weight, panel, tile), smaller(kBlockTiles, weight.tiles - tile));
            Set::template decode_tile<kBits>(codes.tile(tile % kBlockTiles), mask, integers);
            for (std::int64_t row = 0; row < kSide; ++row) {
                const auto scale = Set::broadcast(float_of_bf16(weight.scales[panel * kSide + row]));
                store_values<Set>(Set::multiply(Set::load(integers + row * kSide), scale),
                                  to + (row * width + tile * kSide) * size_of(dtype), dtype);
            }
        }
    }
}

template <class Set, int kBits>
void multiply_panels(const TrellisWeight& weight, Range panels, std::int64_t first, const TrellisInput& x,
                     std::int64_t height, float* y) {
    const std::uint32_t mask = state_mask(weight);
    CyclicTiles<kBits> codes;
    std::int32_t sums[kMostPlanes][kSide];
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        float totals[kMostVectors][kSide] = {};
        for (std::int64_t block = 0; block < x.blocks; ++block) {
            const std::int64_t tile = block * kBlockTiles;
            codes.load(tile_at<kBits>(weight, panel, tile), smaller(kBlockTiles, weight.tiles - tile));
            TrellisInput here = x;
            here.steps += block * kTrellisBlock;
            Set::template multiply_tiles<kBits>(codes, mask, here, sums);
            for (std::int64_t plane = 0; plane < x.planes; ++plane) {
                const float factor = x.factors[plane * x.blocks + block];
                const auto offset = static_cast<std::uint32_t>(kTrellisOffset * x.sums[plane * x.blocks + block]);
                float* total = totals[x.rows[plane]];
                for (std::int64_t row = 0; row < kSide; ++row) {
                    const std::uint32_t centred = static_cast<std::uint32_t>(sums[plane][row]) - offset;
                    total[row] += factor * static_cast<float>(static_cast<std::int32_t>(centred));
                }
            }
        }
        for (std::int64_t vector = 0; vector <= x.rows[x.planes - 1]; ++vector)
            for (std::int64_t row = 0; row < kSide; ++row)
                y[vector * height + (panel - first) * kSide + row] =
                    totals[vector][row] * float_of_bf16(weight.scales[panel * kSide + row]);
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
void multiply(const TrellisWeight& weight, Range panels, std::int64_t first, const TrellisInput& x, std::int64_t height,
              float* y) {
    constexpr decltype(&multiply<Set>) functions[] = {
        multiply_panels<Set, 1>, multiply_panels<Set, 2>, multiply_panels<Set, 3>, multiply_panels<Set, 4>,
        multiply_panels<Set, 5>, multiply_panels<Set, 6>, multiply_panels<Set, 7>, multiply_panels<Set, 8>};
    functions[weight.bits - 1](weight, panels, first, x, height, y);
}

}  // namespace
}  // namespace tilepress
