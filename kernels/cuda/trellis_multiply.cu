// x @ weight.T in the rotated basis, for one to eight rows of rotated x, trellis codes decoded straight into operands
// of tensor cores.
//
// Values of states are integers below 1024, exact as float16. x is cut into two float16 numbers, 22 bits in all, after
// each row has been scaled by a power of two; up to four rows take both parts in one product, more of them take two.
#include "product.cuh"
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
    auto* of_warps = reinterpret_cast<u32*>(shared);
    const int vector = blockIdx.x, width = tiles * kSide;
    const float* row = x + static_cast<i64>(vector) * width;
    u32 largest = 0;
    for (int i = threadIdx.x; i < width; i += kThreads) largest = max(largest, bits_of_float(row[i]) & 0x7fffffffu);
    for (int lanes = 16; lanes > 0; lanes /= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < kWarps; ++i) largest = max(largest, of_warps[i]);
    // The largest magnitude comes to lie between 2^13 and 2^14.
    const int exponent = min(max(267 - static_cast<int>(largest >> 23), 1), 253);
    const float scale = float_of_bits(static_cast<u32>(exponent) << 23);
    if (threadIdx.x == 0) unscale[vector] = float_of_bits(static_cast<u32>(254 - exponent) << 23);
    for (int i = threadIdx.x; i < width / 2; i += kThreads) {
        float parts[2][2];
        for (int j = 0; j < 2; ++j) cut<Float16>(row[2 * i + j] * scale, parts[j]);
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
            for (int j = 0; j < 4; ++j) {
                // 1024 + sum of bytes, as float16; then the sum less kOffset.
                const u32 even = byte_sum(bits.state(2 * j, mask), Float16::kInteger);
                const u32 odd = byte_sum(bits.state(2 * j + 1, mask), Float16::kInteger);
                constexpr u32 minus = 0x8000u | (Float16::kInteger + kOffset);
                a[j] = Float16::multiply_add(select_bytes(even, odd, 0x5410u), Float16::kOnes, minus << 16 | minus);
            }
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
