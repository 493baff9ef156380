// x @ weight.T in the rotated basis, for many rows of rotated x, trellis codes decoded straight into operands of tensor
// cores.
//
// Values of states are integers below 1024, exact as float16. x is rounded to float16, 11 bits, after each row has been
// scaled by a power of two.
#include "many.cuh"
#include "scaled.cuh"
#include "trellis.cuh"

namespace tilepress {

// x [count][width] -> prepared [count][width] in float16, and what undoes each row's scale, [count].
//
// grid    count, block 256
// shared  4 bytes a warp
// moves   each value twice in, the second time out of a cache, and once out
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    trellis_prepare_many(const float* x, u32* prepared, float* unscale, int width) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    const float* row = x + static_cast<i64>(blockIdx.x) * width;
    const Scaling scaling = scaling_of(row, width, shared);
    if (threadIdx.x == 0) unscale[blockIdx.x] = scaling.back;
    for (int i = threadIdx.x; i < width / 2; i += kThreads)
        prepared[static_cast<i64>(blockIdx.x) * (width / 2) + i] =
            Float16::pair(row[2 * i] * scaling.to, row[2 * i + 1] * scaling.to);
}

// grid    (blocks of 128 rows of x, for each block of 8 panels; splits of the columns), block 256
// shared  kManyStages stages of codes and x, 1024 bits + 16384 bytes each
// moves   bits / 8 bytes of codes a weight for every 128 rows of x; blocks that share them run side by side
//
// y: [splits][count][height], height = 16 rows of each panel.
template <class Bits, class Window>
__global__ void __launch_bounds__(kThreads)
    trellis_multiply_many(const u16* prepared, const float* unscale, const u8* codes, const u16* scales, float* y,
                          int count, int panels, int tiles, int window) {
    constexpr int kTileBytes = 32 * Bits::kBits;
    using Stream = BlockStream<kTileBytes, 64>;
    TILEPRESS_DYNAMIC_SHARED(shared);

    const int vector_blocks = (count + Stream::kBlockVectors - 1) / Stream::kBlockVectors;
    const int vector_first = blockIdx.x % vector_blocks * Stream::kBlockVectors;
    const int panel_first = blockIdx.x / vector_blocks * kBlockPanels;
    Stream stream(codes + static_cast<i64>(panel_first) * tiles * kTileBytes, panels - panel_first,
                  prepared + static_cast<i64>(vector_first) * tiles * kSide, count - vector_first, tiles, shared);

    const LaneReader<Bits::kBits> reader(threadIdx.x % 32);
    const u32 mask = (1u << window) - 1;
    WarpProducts<Stream> sums = {};
    for (int stage = stream.first; stage < stream.last; ++stage) {
        stream.next(stage);
        const int stage_tiles = min(kManyTiles, tiles - stage * kManyTiles);
        for (int tile = 0; tile < stage_tiles; ++tile) {
            u32 b[Stream::kFragments][2];
            stream.load_x(tile, b);
            for (int panel = 0; panel < kWarpPanels; ++panel) {
                u32 a[4];
                decode_fragment<Window>(reader.read(stream.codes(panel, tile)), mask, a);
                for (int fragment = 0; fragment < Stream::kFragments; ++fragment)
                    Float16::mma(sums[panel][fragment], a, b[fragment]);
            }
        }
    }

    const int height = panels * kSide;
    store_products<Stream>(sums, shared, [&](int block_vector, int block_row, float total) {
        const int vector = vector_first + block_vector, row = panel_first * kSide + block_row;
        if (vector >= count || row >= height) return;
        y[(static_cast<i64>(blockIdx.y) * count + vector) * height + row] =
            total * unscale[vector] * Bfloat16::load(scales[row]);
    });
}

}  // namespace tilepress
