// x @ weight.T for many rows of x in float16 or bfloat16, the codes decoded in registers into operands of tensor cores.
//
// grid    (blocks of 64 rows of x, for each block of 8 panels; splits of the columns), block 256
// shared  kManyStages stages of codes and x, 1024 bits + 8192 bytes each, and a book of 64 bytes
// moves   bits / 8 bytes of codes a weight for every 64 rows of x; blocks that share them run side by side
//
// Codes are exact in 16 bits; sums are scaled in float32 at the end of each group, and added up in the same order
// whatever the device does.
#include "many.cuh"
#include "unpack.cuh"

namespace tilepress {

template <class Code, class Scale, class Dtype>
__global__ void __launch_bounds__(kThreads, 2)
    tiles_multiply_many(const u16* x, const u8* codes, const u8* scales, const u8* zero_points,
                        const float* global_scale, const u16* bias, u16* y, float* partials, int count, int tiles,
                        int groups, int group_tiles, int row_first, int row_last) {
    using Unpack = Unpacker<Code, Dtype>;
    constexpr int kTileBytes = 32 * Code::kBits;
    using Stream = BlockStream<kTileBytes, 32>;
    TILEPRESS_DYNAMIC_SHARED(shared);

    auto& book = *reinterpret_cast<typename Unpack::Book*>(shared + kManyStages * Stream::kStageBytes);
    if (threadIdx.x < 16) Unpack::fill(book, threadIdx.x);
    const int vector_blocks = (count + Stream::kBlockVectors - 1) / Stream::kBlockVectors;
    const int vector_first = blockIdx.x % vector_blocks * Stream::kBlockVectors;
    const int panel_first = row_first / kSide + blockIdx.x / vector_blocks * kBlockPanels;
    const int panels = (row_last + kSide - 1) / kSide - panel_first;
    const i64 tile_first = static_cast<i64>(panel_first) * tiles;
    Stream stream(codes + tile_first * kTileBytes, panels, x + static_cast<i64>(vector_first) * tiles * kSide,
                  count - vector_first, tiles, shared);

    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Unpack unpack[kWarpPanels];
    for (Unpack& of_panel : unpack) of_panel.book = &book;
    WarpProducts<Stream> totals = {}, sums = {};
    float of_rows[kWarpPanels][2];
    int group = stream.first * kManyTiles / group_tiles;
    int left = (group + 1) * group_tiles - stream.first * kManyTiles;
    const auto begin_group = [&] {
        for (int panel = 0; panel < kWarpPanels; ++panel)
            for (int half = 0; half < 2; ++half) {
                const int row_panel = panel_first + min(Stream::panel_of_warp() + panel, panels - 1);
                const i64 place = (static_cast<i64>(row_panel) * groups + group) * kSide + g + 8 * half;
                of_rows[panel][half] = Scale::scale(scales, place, global_scale);
                if constexpr (Code::kIsInteger) {
                    const int zero = zero_points != nullptr ? zero_points[place] : 1 << (Code::kBits - 1);
                    unpack[panel].set_zero(half, static_cast<float>(zero));
                }
            }
    };
    const auto end_group = [&] {
        for (int panel = 0; panel < kWarpPanels; ++panel)
            for (int fragment = 0; fragment < Stream::kFragments; ++fragment)
                for (int i = 0; i < 4; ++i) {
                    totals[panel][fragment][i] += of_rows[panel][i / 2] * sums[panel][fragment][i];
                    sums[panel][fragment][i] = 0.0f;
                }
    };
    if (stream.first < stream.last) begin_group();
    for (int stage = stream.first; stage < stream.last; ++stage) {
        stream.next(stage);
        const int stage_tiles = min(kManyTiles, tiles - stage * kManyTiles);
#pragma unroll 1  // sums fill the registers
        for (int tile = 0; tile < stage_tiles; ++tile) {
            if (left == 0) {
                end_group();
                ++group;
                left = group_tiles;
                begin_group();
            }
            --left;
            u32 b[Stream::kFragments][2];
            stream.load_x(tile, b);
            for (int panel = 0; panel < kWarpPanels; ++panel) {
                u32 upper, lower, a[Unpack::kParts][4];
                read_codes<Code::kBits, Pairs>(stream.codes(panel, tile), g, t, upper, lower);
                unpack[panel](upper, lower, a);
                for (int part = 0; part < Unpack::kParts; ++part)
                    for (int fragment = 0; fragment < Stream::kFragments; ++fragment)
                        Dtype::mma(sums[panel][fragment], a[part], b[fragment]);
            }
        }
    }
    if (stream.first < stream.last) end_group();

    const int height = row_last - row_first;
    store_products<Stream>(totals, shared, [&](int block_vector, int block_row, float total) {
        const int vector = vector_first + block_vector, row = panel_first * kSide + block_row - row_first;
        if (vector >= count || row < 0 || row >= height) return;
        const i64 place = static_cast<i64>(vector) * height + row;
        if (gridDim.y > 1) {
            partials[static_cast<i64>(blockIdx.y) * count * height + place] = total;
        } else {
            if (bias != nullptr) total += Dtype::load(bias[row]);
            y[place] = Dtype::store(total);
        }
    });
}

}  // namespace tilepress
