// Rotated values of panels of trellis codes, scale * value, bit for bit those of the reference before it rotates back.
//
// grid    (groups of 8 tiles, panels), block 256
// shared  none
// moves   bits / 8 bytes of codes and a value's bytes a weight
//
// A warp decodes a tile; each lane stores its eight values in pairs.
#include "trellis.cuh"

namespace tilepress {

// codes [panels][tiles][32 bits] and scales [panels][16] from the first panel on -> values [16 panels][16 tiles].
template <class Bits, class Dtype>
__global__ void __launch_bounds__(kThreads)
    trellis_decode(const u8* codes, const u16* scales, typename Dtype::Stored* values, int tiles, int window) {
    const int lane = threadIdx.x % 32, tile = blockIdx.x * (kWarps) + threadIdx.x / 32;
    if (tile >= tiles) return;
    const i64 panel = blockIdx.y;
    const auto bits = LaneReader<Bits::kBits>(lane).read(codes + (panel * tiles + tile) * 32 * Bits::kBits);
    const u32 mask = (1u << window) - 1;
    for (int i = 0; i < kLaneSteps / 2; ++i) {
        const int row = lane / 4 + i % 2 * 8, column = tile * kSide + lane % 4 * 2 + i / 2 * 8;
        const float scale = Bfloat16::load(scales[panel * kSide + row]);
        typename Dtype::Stored* to = values + (panel * kSide + row) * (static_cast<i64>(tiles) * kSide) + column;
        for (int j = 0; j < 2; ++j) {
            const int value = static_cast<int>(byte_sum(bits.state(2 * i + j) & mask, 0u)) - kOffset;
            to[j] = Dtype::store(multiply(static_cast<float>(value), scale));
        }
    }
}

}  // namespace tilepress
