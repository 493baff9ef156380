// x @ weight.T for one to eight rows of x and a `lossless` weight, whose values are multiplied as they are decoded.
//
// grid    blocks of the weight / 8, block 256
// shared  1 KiB for each plane: what each slot of its model means
// moves   the bytes of the blocks once; x is read once a panel, out of a cache
//
// A warp decodes a block of the weight, row by row, 32 values a step; a lane adds up what its values of a row give.
// Each block has sums of its own, which `add_splits` adds up: the same input gives the same bits.
#include "lossless.cuh"
#include "product.cuh"

namespace tilepress {

// Values of x for a column of a block, 0 for one that it does not have.
template <class Dtype>
TILEPRESS_DEVICE void load_factors(const typename Dtype::Stored* x, int count, int columns, int column, int width,
                                   float (&factors)[kMostVectors]) {
#pragma unroll
    for (int vector = 0; vector < kMostVectors; ++vector)
        factors[vector] = vector < count && column >= 0 && column < width
                              ? Dtype::load(x[static_cast<i64>(vector) * columns + column])
                              : 0.0f;
}

// x [count][columns] -> partials [blocks of a panel][count][row_last - row_first].
template <class Cut, class Dtype>
__global__ void __launch_bounds__(kThreads, 2)
    lossless_multiply(const u8* payload, i64 payload_bytes, const i64* offsets, const u8* table,
                      const typename Dtype::Stored* x, float* partials, int items, int count, int height, int columns,
                      int row_first, int row_last) {
    using Source = typename Cut::Dtype;
    TILEPRESS_DYNAMIC_SHARED(shared);
    const u32* slots = share_slots<Cut>(table, shared);
    const int item = blockIdx.x * kWarps + threadIdx.x / 32;
    if (item >= items) return;
    const BlockPlace place = block_place(kBlockColumns, item, height, columns, row_first, row_last, 0, columns);
    LosslessBlock<Cut> block({payload, payload_bytes, offsets, table}, place.number, place.count, slots);

    const int rows = row_last - row_first;
    float* to = partials + static_cast<i64>(place.left / kBlockColumns) * count * rows;
    float sums[kMostVectors] = {}, factors[kMostVectors];
    int row = place.top, row_begin = 0;  // the row whose sums these are, and its first value
    for (int first = 0; first < place.wanted; first += 32) {
        int column = first + lane_number() - row_begin;
        // Before the step, so that both are waited for together.
        load_factors<Dtype>(x + place.left, count, columns, column, place.width, factors);
        const float weight = Source::load(Source::of_bits(block.step()));
        for (;;) {
            const float mine = column >= 0 && column < place.width ? weight : 0.0f;
#pragma unroll
            for (int vector = 0; vector < kMostVectors; ++vector) sums[vector] += mine * factors[vector];
            if (row_begin + place.width > first + 32) break;
#pragma unroll
            for (int vector = 0; vector < kMostVectors; ++vector) {
                if (vector >= count) break;
                float& sum = sums[vector];
                for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
                if (row >= row_first && lane_number() == vector)
                    to[static_cast<i64>(vector) * rows + row - row_first] = sum;
                sum = 0.0f;
            }
            ++row;
            row_begin += place.width;
            if (row_begin >= first + 32 || row_begin >= place.wanted) break;
            column -= place.width;
            load_factors<Dtype>(x + place.left, count, columns, column, place.width, factors);
        }
    }
}

}  // namespace tilepress
