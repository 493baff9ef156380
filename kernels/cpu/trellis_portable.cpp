// Kernels for trellis codes in plain C++.
#include "portable_floats.hpp"
#include "trellis_multiply.hpp"
#include "trellis_rotation.hpp"

namespace tilepress {
namespace {

struct Portable : PortableFloats {
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
    static void multiply_panel(const TrellisWeight& weight, std::int64_t panel, std::uint32_t, const float* x,
                               float* sums) {
        float of_vectors[kMostVectors][kSide];
        multiply_several<Portable, kBits>(weight, panel, x, 1, of_vectors);
        std::memcpy(sums, of_vectors[0], sizeof of_vectors[0]);
    }
};

}  // namespace

TrellisKernels portable_trellis_kernels() {
    return {decode<Portable>, multiply<Portable>, rotate};
}

}  // namespace tilepress
