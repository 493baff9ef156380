// x @ weight.T for one to eight rows of x and a weight of zfp panels at a fixed rate, whose blocks are multiplied as
// they are decoded.
#include "product.cuh"
#include "zfp.cuh"

namespace tilepress {

constexpr int kLineThreads = kThreads / (kSide / kZfpSide);
constexpr int kLineWarps = kLineThreads / 32;

// x [count][columns] -> partials [splits][count][row_last - row_first], which `add_splits` adds up.
//
// grid    (panels, splits of the columns), block 256
// shared  4 bytes for each row of four, row of x and warp
// moves   the bits of the blocks once; x is read once a panel, out of a cache
//
// A panel's four rows of blocks have 64 threads each; a thread decodes a block, and multiplies its four rows.
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    zfp_multiply(const u8* payload, i64 payload_bytes, const i64* offsets, const typename Dtype::Stored* x,
                 float* partials, int bits, int count, int columns, int row_first, int row_last) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    auto& of_warps = *reinterpret_cast<float (*)[kWarps][kMostVectors][kZfpSide]>(shared);
    const int line = threadIdx.x / kLineThreads;
    const int panel = row_first / kSide + blockIdx.x, top = panel * kSide;
    const int across = (columns + kZfpSide - 1) / kZfpSide;
    const int of_split = (across + gridDim.y - 1) / gridDim.y, first = blockIdx.y * of_split;
    const int last = top + line * kZfpSide < row_last ? min(first + of_split, across) : 0;
    const ZfpStream stream(payload_bytes, offsets, panel);

    float sums[kMostVectors][kZfpSide] = {};
    for (int block = first + threadIdx.x % kLineThreads; block < last; block += kLineThreads) {
        float values[kZfpValues];
        decode_fixed(payload, stream, static_cast<i64>(line) * across + block, bits, values);
        const int column = block * kZfpSide, width = min(kZfpSide, columns - column);
#pragma unroll
        for (int vector = 0; vector < kMostVectors; ++vector) {
            if (vector >= count) break;
            const typename Dtype::Stored* from = x + static_cast<i64>(vector) * columns + column;
#pragma unroll
            for (int i = 0; i < kZfpSide; ++i) {
                if (i >= width) break;
                const float factor = Dtype::load(from[i]);
#pragma unroll
                for (int row = 0; row < kZfpSide; ++row) sums[vector][row] += values[kZfpSide * row + i] * factor;
            }
        }
    }

#pragma unroll
    for (int vector = 0; vector < kMostVectors; ++vector) {
        if (vector >= count) break;
#pragma unroll
        for (int row = 0; row < kZfpSide; ++row) {
            float sum = sums[vector][row];
            for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
            if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32][vector][row] = sum;
        }
    }
    __syncthreads();
    const int row = threadIdx.x % kSide, vector = threadIdx.x / kSide;
    if (vector >= count || top + row < row_first || top + row >= row_last) return;
    float total = 0.0f;
    for (int warp = 0; warp < kLineWarps; ++warp)
        total += of_warps[row / kZfpSide * kLineWarps + warp][vector][row % kZfpSide];
    partials[(static_cast<i64>(blockIdx.y) * count + vector) * (row_last - row_first) + top + row - row_first] = total;
}

}  // namespace tilepress
