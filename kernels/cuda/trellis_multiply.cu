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

// So many products take both parts of x.
template <int kCount_>
struct Sets {
    static constexpr int kCount = kCount_;
};

// Column of the B fragment, and of the sums, of a part of a row of x; and which of the products it is in.
struct Place {
    int column, set;
};
TILEPRESS_DEVICE Place place_of(int vector, int part, int sets) {
    return sets == 1 ? Place{2 * vector + part, 0} : Place{vector, part};
}

// x [count][16 tiles] -> prepared [sets][padded tiles][32 lanes][2], the B fragments, and what undoes each row's scale,
// [count]. Tiles after the last one are zero.
//
// grid    count, block 256
// shared  4 bytes a warp
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    trellis_prepare(const float* x, u32* prepared, float* unscale, int count, int tiles, int padded_tiles) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    const int vector = blockIdx.x, width = tiles * kSide;
    const float* row = x + static_cast<i64>(vector) * width;
    const Scaling scaling = scaling_of(row, width, shared);
    if (threadIdx.x == 0) unscale[vector] = scaling.back;
    for (int i = threadIdx.x; i < padded_tiles * kSide / 2; i += kThreads) {
        float parts[2][2];
        for (int j = 0; j < 2; ++j) cut<Float16>(2 * i < width ? row[2 * i + j] * scaling.to : 0.0f, parts[j]);
        const int tile = i / 8, t = i % 4, half = i % 8 / 4;
        for (int part = 0; part < 2; ++part) {
            const Place place = place_of(vector, part, count <= kMostPaired ? 1 : 2);
            prepared[((static_cast<i64>(place.set) * padded_tiles + tile) * 32 + 4 * place.column + t) * 2 + half] =
                Float16::pair(parts[0][part], parts[1][part]);
        }
    }
}

// grid    (panels, splits of the columns), block 256
// shared  each warp's codes on their way, kStages * 1 KiB a warp for 4 bits
// moves   bits / 8 bytes of codes a weight once; x is read once a panel, out of a cache
//
// y: [splits][count][height], height = 16 rows of each panel of the grid.
template <class Bits, class Window, class Sets>
__global__ void __launch_bounds__(kThreads)
    trellis_multiply(const u32* prepared, const float* unscale, const u8* codes, const u16* scales, float* y, int count,
                     int tiles, int padded_tiles, int window) {
    constexpr int kTileBytes = 32 * Bits::kBits, kTiles = Bits::kBits <= 4 ? 8 : 4;
    TILEPRESS_DYNAMIC_SHARED(shared);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    TileStream<kTileBytes, kTiles> stream(codes + static_cast<i64>(blockIdx.x) * tiles * kTileBytes, tiles, shared);

    const LaneReader<Bits::kBits> reader(lane);
    const u32 mask = (1u << window) - 1;
    // Lanes of columns that no row of x has read another one; nobody looks at their sums.
    const int column = g < (Sets::kCount == 1 ? 2 * count : count) ? g : 0;
    const auto* x =
        reinterpret_cast<const TwoWords*>(prepared) + static_cast<i64>(stream.first) * kTiles * 32 + 4 * column + t;
    float sums[4] = {};
    for (int stage = stream.first; stage < stream.last; ++stage) {
        const u8* of_stage = stream.next();
        // Tiles that are not there are multiplied by zero: any codes have finite values.
        for (int tile = 0; tile < kTiles; ++tile) {
            u32 a[4];
            decode_fragment<Window>(reader.read(of_stage + tile * kTileBytes), mask, a);
            for (int set = 0; set < Sets::kCount; ++set) {
                const TwoWords b = x[static_cast<i64>(set) * padded_tiles * 32 + tile * 32];
                Float16::mma(sums, a, b.of);
            }
        }
        x += kTiles * 32;
    }

    const WarpSums& of_warps = gather_sums(sums, shared);
    const int row = threadIdx.x % kSide, vector = threadIdx.x / kSide;
    if (vector >= count) return;
    float total = 0.0f;
    for (int i = 0; i < kWarps; ++i)
        for (int part = 0; part < 3 - Sets::kCount; ++part)
            total += of_warps[i][row][place_of(vector, part, Sets::kCount).column];
    const i64 height = static_cast<i64>(gridDim.x) * kSide, panel_row = static_cast<i64>(blockIdx.x) * kSide + row;
    y[(static_cast<i64>(blockIdx.y) * count + vector) * height + panel_row] =
        total * unscale[vector] * Bfloat16::load(scales[panel_row]);
}

}  // namespace tilepress
