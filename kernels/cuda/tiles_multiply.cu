// x @ weight.T for one to eight rows of x, the codes decoded in registers into operands of tensor cores.
//
// grid    (panels, splits of the columns), block 256
// shared  each warp's codes on their way, kStages * kStageTiles * 32 bits bytes a warp, and a book of 128 bytes
// moves   bits / 8 bytes of codes a weight once; x is read once a panel, out of a cache
//
// A warp takes a run of a panel's tiles. Of each, lane l = 4 g + t holds the codes of rows g and g + 8 in columns 4 t
// to 4 t + 3: the A fragment of mma.m16n8k16, in which the order of the columns is free as long as x, the B fragment,
// has the same. Codes are exact in 16 bits; sums are scaled in float32 at the end of each group. Sums are added up in
// the same order whatever the device does.
#include "product.cuh"
#include "unpack.cuh"

namespace tilepress {

constexpr int kStageTiles = 4;

// Four neighbouring values of x -> the B fragment, in `Dtype::kParts` parts.
template <class Dtype>
TILEPRESS_DEVICE void load_fragment(const typename Dtype::Stored* from, u32 (&b)[Dtype::kParts][2]) {
    if constexpr (Dtype::kParts == 1) {
        const TwoWords both = *reinterpret_cast<const TwoWords*>(from);
        for (int i = 0; i < 2; ++i) b[0][i] = both.of[i];
    } else {
        const Words words = *reinterpret_cast<const Words*>(from);
        float parts[4][Dtype::kParts];
        for (int i = 0; i < 4; ++i) cut<typename Dtype::Element>(float_of_bits(words.of[i]), parts[i]);
        for (int part = 0; part < Dtype::kParts; ++part)
            for (int i = 0; i < 2; ++i) b[part][i] = Dtype::Element::pair(parts[2 * i][part], parts[2 * i + 1][part]);
    }
}

// x: [count][16 tiles], aligned to 16 bytes.
template <class Code, class Scale, class Dtype>
__global__ void __launch_bounds__(kThreads, 4)
    tiles_multiply(const typename Dtype::Stored* x, const u8* codes, const u8* scales, const u8* zero_points,
                   const float* global_scale, const typename Dtype::Stored* bias, typename Dtype::Stored* y,
                   float* partials, int count, int tiles, int groups, int group_tiles, int row_first, int row_last) {
    using Unpack = Unpacker<Code, Dtype>;
    constexpr int kTileBytes = 32 * Code::kBits;
    using Stream = TileStream<kTileBytes, kStageTiles>;
    TILEPRESS_DYNAMIC_SHARED(shared);

    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int panel = row_first / kSide + blockIdx.x;
    auto& book = *reinterpret_cast<typename Unpack::Book*>(shared + Stream::kRingBytes);
    if (threadIdx.x < 16) Unpack::fill(book, threadIdx.x);
    __syncthreads();
    Stream stream(codes + static_cast<i64>(panel) * tiles * kTileBytes, tiles, shared);

    // Lanes of columns that no row of x has read the last row's; nobody looks at their sums.
    const typename Dtype::Stored* from =
        x + (static_cast<i64>(min(g, count - 1)) * tiles + stream.first * kStageTiles) * kSide + 4 * t;
    Unpack unpack{&book, {}, {}};
    float totals[4] = {}, sums[4] = {}, of_rows[2];
    int group = stream.first * kStageTiles / group_tiles;
    int left = (group + 1) * group_tiles - stream.first * kStageTiles;
    const auto begin_group = [&] {
        for (int half = 0; half < 2; ++half) {
            const i64 place = (static_cast<i64>(panel) * groups + group) * kSide + g + 8 * half;
            of_rows[half] = Scale::scale(scales, place, global_scale);
            if constexpr (Code::kIsInteger) {
                const int zero = zero_points != nullptr ? zero_points[place] : 1 << (Code::kBits - 1);
                unpack.set_zero(half, static_cast<float>(zero));
            }
        }
    };
    const auto end_group = [&] {
        for (int i = 0; i < 4; ++i) {
            totals[i] += of_rows[i / 2] * sums[i];
            sums[i] = 0.0f;
        }
    };
    if (stream.first < stream.last) begin_group();
    for (int stage = stream.first; stage < stream.last; ++stage) {
        const u8* of_stage = stream.next();
#pragma unroll
        for (int i = 0; i < kStageTiles; ++i) {
            if (stage * kStageTiles + i >= tiles) break;
            if (left == 0) {
                end_group();
                ++group;
                left = group_tiles;
                begin_group();
            }
            --left;
            u32 upper, lower, a[Unpack::kParts][4], b[Dtype::kParts][2];
            read_codes<Code::kBits>(of_stage + i * kTileBytes, g, t, upper, lower);
            load_fragment<Dtype>(from, b);
            from += kSide;
            unpack(upper, lower, a);
            constexpr int kMostParts = Unpack::kParts > Dtype::kParts ? Unpack::kParts : Dtype::kParts;
            for (int i_a = 0; i_a < Unpack::kParts; ++i_a)
                for (int i_b = 0; i_b < Dtype::kParts; ++i_b)
                    if (i_a + i_b < kMostParts) Dtype::Element::mma(sums, a[i_a], b[i_b]);
        }
    }
    if (stream.first < stream.last) end_group();

    const WarpSums& of_warps = gather_sums(totals, shared);
    const int row = threadIdx.x % kSide, vector = threadIdx.x / kSide;
    const int matrix_row = panel * kSide + row;
    if (vector >= count || matrix_row < row_first || matrix_row >= row_last) return;
    float total = 0.0f;
    for (int i = 0; i < kWarps; ++i) total += of_warps[i][row][vector];
    const int height = row_last - row_first, place = vector * height + matrix_row - row_first;
    if (gridDim.y > 1) {
        partials[static_cast<i64>(blockIdx.y) * count * height + place] = total;
    } else {
        if (bias != nullptr) total += Dtype::load(bias[matrix_row - row_first]);
        y[place] = Dtype::store(total);
    }
}

}  // namespace tilepress
