// x @ weight.T in the rotated basis, for one to eight rows of rotated x, trellis codes decoded straight into operands
// of tensor cores.
//
// Values of states are integers below 1024, exact as float16. x is cut into two float16 numbers, 22 bits in all, after
// each row has been scaled by a power of two; up to four rows take both parts in one product, more of them take two.
#include "product.cuh"
#include "scaled.cuh"
#include "trellis.cuh"

namespace tilepress {

constexpr int kMostPaired = 4;

// Column of the B fragment, and of the sums, of a part of a row of x; and which of the products it is in.
struct Place {
    int column, set;
};
TILEPRESS_DEVICE Place place_of(int vector, int part, int count) {
    return count <= kMostPaired ? Place{2 * vector + part, 0} : Place{vector, part};
}

// x [count][width] -> prepared [sets][tiles][32 lanes][2], the B fragments, and what undoes each row's scale, [count].
//
// grid    count, block 256
// shared  4 bytes a warp
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    trellis_prepare(const float* x, u32* prepared, float* unscale, int count, int tiles) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    const int vector = blockIdx.x, width = tiles * kSide;
    const float* row = x + static_cast<i64>(vector) * width;
    const Scaling scaling = scaling_of(row, width, shared);
    if (threadIdx.x == 0) unscale[vector] = scaling.back;
    for (int i = threadIdx.x; i < width / 2; i += kThreads) {
        float parts[2][2];
        for (int j = 0; j < 2; ++j) cut<Float16>(row[2 * i + j] * scaling.to, parts[j]);
        const int tile = i / 8, t = i % 4, half = i % 8 / 4;
        for (int part = 0; part < 2; ++part) {
            const Place place = place_of(vector, part, count);
            prepared[((static_cast<i64>(place.set) * tiles + tile) * 32 + 4 * place.column + t) * 2 + half] =
                Float16::pair(parts[0][part], parts[1][part]);
        }
    }
}

// grid    (panels, splits of the columns), block 256
// shared  each warp's codes on their way, kStages * kStageTiles * 32 bits bytes a warp
// moves   bits / 8 bytes of codes a weight once; x is read once a panel, out of a cache
//
// y: [splits][count][height], height = 16 rows of each panel of the grid.
template <class Bits>
__global__ void __launch_bounds__(kThreads)
    trellis_multiply(const u32* prepared, const float* unscale, const u8* codes, const u16* scales, float* y, int count,
                     int tiles, int window) {
    constexpr int kTileBytes = 32 * Bits::kBits;
    TILEPRESS_DYNAMIC_SHARED(shared);
    const int lane = threadIdx.x % 32, g = lane / 4;
    TileStream<kTileBytes> stream(codes + static_cast<i64>(blockIdx.x) * tiles * kTileBytes, tiles, shared);

    const int sets = count <= kMostPaired ? 1 : 2;
    const bool has_column = g < (sets == 1 ? 2 * count : count);
    const u32 mask = (1u << window) - 1;
    float sums[4] = {};
    for (int stage = stream.first; stage < stream.last; ++stage) {
        const u8* of_stage = stream.stage(stage);
        for (int i = 0; i < kStageTiles; ++i) {
            const int tile = stage * kStageTiles + i;
            if (tile >= tiles) break;
            LaneBits<Bits::kBits> bits;
            bits.load(of_stage + i * kTileBytes, lane);
            u32 a[4];
            decode_fragment(bits, mask, a);
            for (int set = 0; set < sets; ++set) {
                u32 b[2] = {};
                if (has_column) {
                    const auto* from = reinterpret_cast<const TwoWords*>(prepared);
                    const TwoWords both = from[(static_cast<i64>(set) * tiles + tile) * 32 + lane];
                    b[0] = both.of[0];
                    b[1] = both.of[1];
                }
                Float16::mma(sums, a, b);
            }
        }
    }

    const WarpSums& of_warps = gather_sums(sums, shared);
    const int row = threadIdx.x % kSide, vector = threadIdx.x / kSide;
    if (vector >= count) return;
    float total = 0.0f;
    for (int i = 0; i < kWarps; ++i)
        for (int part = 0; part < 3 - sets; ++part) total += of_warps[i][row][place_of(vector, part, count).column];
    const i64 height = static_cast<i64>(gridDim.x) * kSide, panel_row = static_cast<i64>(blockIdx.x) * kSide + row;
    y[(static_cast<i64>(blockIdx.y) * count + vector) * height + panel_row] =
        total * unscale[vector] * Bfloat16::load(scales[panel_row]);
}

}  // namespace tilepress
