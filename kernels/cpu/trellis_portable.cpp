// Kernels for trellis codes in plain C++.
#include "portable_floats.hpp"
#include "trellis_multiply.hpp"
#include "trellis_rotation.hpp"

namespace tilepress {
namespace {

struct Portable : PortableFloats {
    static Values butterflies(Values values) {
        for (int half = 1; half < kSide; half *= 2)
            values = each([&](int i) {
                const float other = values.of[i ^ half];
                return i & half ? other - values.of[i] : values.of[i] + other;
            });
        return values;
    }
    static Values change_signs(const Values& values, unsigned mask) {
        return each([&](int i) { return mask >> i & 1 ? -values.of[i] : values.of[i]; });
    }

    template <int kBits>
    static void decode_tile(const std::uint8_t* tile, std::uint32_t mask, float* values) {
        for (int step = 0; step < kTrellisSteps; ++step) {
            std::uint32_t word = 0;
            for (int i = 0; i < 3; ++i) word |= static_cast<std::uint32_t>(tile[step * kBits / 8 + i]) << (8 * i);
            const TrellisPlace place = trellis_place(step);
            values[place.row * kSide + place.column] =
                static_cast<float>(trellis_value(word >> (step * kBits % 8) & mask));
        }
    }

    template <int kBits>
    static void multiply_tiles(const CyclicTiles<kBits>& tiles, std::uint32_t mask, const TrellisInput& x,
                               std::int32_t (*sums)[kSide]) {
        std::uint32_t totals[kMostPlanes][kSide] = {};
        float integers[kSide * kSide];
        for (std::int64_t tile = 0; tile < tiles.count; ++tile) {
            decode_tile<kBits>(tiles.tile(tile), mask, integers);
            for (std::int64_t plane = 0; plane < x.planes; ++plane) {
                const std::int16_t* steps = x.steps + plane * x.width + tile * kSide;
                for (int row = 0; row < kSide; ++row)
                    for (int column = 0; column < kSide; ++column) {
                        const int sum = static_cast<int>(integers[row * kSide + column]) + kTrellisOffset;
                        totals[plane][row] += static_cast<std::uint32_t>(sum * steps[column]);
                    }
            }
        }
        std::memcpy(sums, totals, static_cast<std::size_t>(x.planes) * sizeof totals[0]);
    }
};

}  // namespace

TrellisKernels portable_trellis_kernels() {
    return {decode<Portable>, multiply<Portable>, rotate_row<Portable>, rotate_lines<Portable>};
}

}  // namespace tilepress
