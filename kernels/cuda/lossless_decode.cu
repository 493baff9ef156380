// Dense values of a range of rows and columns of a `lossless` weight, bit for bit.
//
// grid    blocks of the weight / 8, block 256
// shared  1 KiB for each plane: what each slot of its model means
// moves   the bytes of the blocks once in, those of the values once out
//
// A warp decodes a block of the weight, 32 values a step.
#include "lossless.cuh"

namespace tilepress {

template <class Cut, class Dtype>
__global__ void __launch_bounds__(kThreads, 2)
    lossless_decode(const u8* payload, i64 payload_bytes, const i64* offsets, const u8* table,
                    typename Dtype::Stored* values, int items, int height, int columns, int row_first, int row_last,
                    int column_first, int column_last) {
    using Stored = typename Dtype::Stored;
    TILEPRESS_DYNAMIC_SHARED(shared);
    const u32* slots = share_slots<Cut>(table, shared);
    const int item = blockIdx.x * kWarps + threadIdx.x / 32;
    if (item >= items) return;
    const BlockPlace place =
        block_place(kBlockColumns, item, height, columns, row_first, row_last, column_first, column_last);
    LosslessBlock<Cut> block({payload, payload_bytes, offsets, table}, place.number, place.count, slots);

    int row = lane_number() / place.width, column = lane_number() % place.width;
    for (int first = 0; first < place.wanted; first += 32) {
        const u32 bits = block.step();
        const int matrix_row = place.top + row, matrix_column = place.left + column;
        if (first + lane_number() < place.wanted && matrix_row >= row_first && matrix_column >= column_first &&
            matrix_column < column_last) {
            Stored& to = values[static_cast<i64>(matrix_row - row_first) * (column_last - column_first) +
                                matrix_column - column_first];
            to = converted<typename Cut::Dtype, Dtype>(bits);
        }
        for (column += 32; column >= place.width; column -= place.width) ++row;
    }
}

}  // namespace tilepress
