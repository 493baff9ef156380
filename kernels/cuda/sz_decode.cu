// Dense values of a range of rows and columns of an `sz` weight, bit for bit those of the reference.
//
// Two kernels: low parts end in the cargo, which a stream has only after its last symbol.
#include "sz.cuh"

namespace tilepress {

// The high parts of all residuals of the tiles of a range; `highs` as SzHighs has them.
//
// grid    tiles / 8, block 256
// shared  1 KiB: what each slot of the model means
// moves   the bytes of the streams once in, 2 bytes a weight out
//
// A warp decodes a tile, 32 values a step.
template <class Source>
__global__ void __launch_bounds__(kThreads)
    sz_high_parts(const u8* payload, i64 payload_bytes, const i64* offsets, const u8* table, u16* highs, int items,
                  int height, int columns, int row_first, int row_last, int column_first, int column_last) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    auto* slots = reinterpret_cast<u32*>(shared);
    slots[threadIdx.x] = rans_slot(table + kSzTableHead, threadIdx.x);
    __syncthreads();
    const int item = blockIdx.x * kWarps + threadIdx.x / 32, lane = lane_number();
    if (item >= items) return;
    const BlockPlace place =
        block_place(kSzColumns, item, height, columns, row_first, row_last, column_first, column_last);
    const SzTile tile(payload, payload_bytes, offsets, table, place.number, place.count,
                      sizeof(typename Source::Stored));
    if (!tile.is_sound) return;
    const SzHighs to(highs, item, columns);
    Symbols symbols;
    symbols.open_stream(tile.base, tile.stream, tile.stream_bytes);
    int row = lane / place.width, column = lane % place.width;
    for (int first = 0; first < place.count; first += 32) {
        const bool is_there = first + lane < place.count;
        const u32 symbol = symbols.next(tile.base, slots, is_there);
        if (is_there) to.row(row)[column] = static_cast<u16>(symbol - kSzMiddle);
        for (column += 32; column >= place.width; column -= place.width) ++row;
    }
    to.cargo()[lane] = static_cast<u8>(symbols.cargo());
    __syncwarp();
    for (int i = lane; i < tile.exception_count; i += 32) {
        const int position = static_cast<int>(u16_at(tile.exceptions + 2 * i));
        if (position < place.count)
            to.row(position / place.width)[position % place.width] =
                static_cast<u16>(u16_at(tile.exceptions + 2 * tile.exception_count + 2 * i));
    }
}

constexpr int kSzLaneValues = kSzColumns / kThreads;
using SzWarpTotals = u32[2][kWarps];

// The sum of what threads of a lower number have; `totals` are those of this row, and the block meets here. Rows take
// turns at the totals, so that one barrier a row is enough.
TILEPRESS_DEVICE u32 sum_before(u32 value, u32 (&totals)[kWarps]) {
    const int lane = lane_number(), warp = threadIdx.x / 32;
    u32 sum = value;
    for (int distance = 1; distance < 32; distance *= 2) {
        const u32 other = __shfl_up_sync(kAllLanes, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    u32 before = sum - value;
    for (int i = 0; i < warp; ++i) before += totals[i];
    return before;
}

// Values from the high parts.
//
// grid    tiles, block 256
// shared  64 bytes: sums of warps, of two rows
// moves   2 bytes of high parts a weight, the low parts and the bytes of the values, once
//
// A block decodes a tile row by row, eight neighbouring values a thread: predictions are undone by prefix sums of
// integers, modulo 2^32, along the row and, of lorenzo2, down the columns.
template <class Source, class Dtype>
__global__ void __launch_bounds__(kThreads, 2)
    sz_values(const u8* payload, i64 payload_bytes, const i64* offsets, const u8* table, u16* highs,
              typename Dtype::Stored* values, int predictor, int height, int columns, int row_first, int row_last,
              int column_first, int column_last, int is_aligned) {
    using Stored = typename Dtype::Stored;
    TILEPRESS_DYNAMIC_SHARED(shared);
    auto& totals = *reinterpret_cast<SzWarpTotals*>(shared);
    const BlockPlace place =
        block_place(kSzColumns, blockIdx.x, height, columns, row_first, row_last, column_first, column_last);
    const SzTile tile(payload, payload_bytes, offsets, table, place.number, place.count,
                      sizeof(typename Source::Stored));
    const SzHighs from(highs, blockIdx.x, columns);
    const float step = float_of_bits(u16_at(table) | u16_at(table + 2) << 16);
    const int first = static_cast<int>(threadIdx.x) * kSzLaneValues, width = column_last - column_first;
    const int rows = place.wanted / place.width, wanted = max(row_first - place.top, 0);

    u32 above[kSzLaneValues] = {};
    for (int row = predictor == kLorenzo2 ? 0 : wanted; row < rows; ++row) {
        u32 integers[kSzLaneValues] = {};
        if (tile.is_sound && first < place.width) {
            const Words words = *reinterpret_cast<const Words*>(from.row(row) + first);
#pragma unroll
            for (int i = 0; i < kSzLaneValues; ++i) {
                if (first + i >= place.width) break;
                const auto high = static_cast<short>(words.of[i / 2] >> (16 * (i % 2)));
                integers[i] = (static_cast<u32>(static_cast<int>(high)) << tile.shift) +
                              tile.low_part(row * place.width + first + i, from.cargo());
            }
        }
        if (predictor == kLorenzo2) {
#pragma unroll
            for (int i = 0; i < kSzLaneValues; ++i) integers[i] = above[i] += integers[i];
        }
        if (predictor != kNoPredictor) {
#pragma unroll
            for (int i = 1; i < kSzLaneValues; ++i) integers[i] += integers[i - 1];
            const u32 before = sum_before(integers[kSzLaneValues - 1], totals[row % 2]);
#pragma unroll
            for (int i = 0; i < kSzLaneValues; ++i) integers[i] += before;
        }
        if (row < wanted) continue;
        float of_row[kSzLaneValues];
#pragma unroll
        for (int i = 0; i < kSzLaneValues; ++i) {
            const float value = multiply(static_cast<float>(static_cast<int>(integers[i])), step);
            of_row[i] = tile.is_sound ? Source::load(Source::store(value)) : float_of_bits(0x7fffffffu);
        }
        const int column = place.left + first;
        Stored* to = values + static_cast<i64>(place.top + row - row_first) * width - column_first;
        if (is_aligned && column >= column_first && column + kSzLaneValues <= column_last) {
            store_lane<Dtype>(to + column, of_row);
        } else {
#pragma unroll
            for (int i = 0; i < kSzLaneValues; ++i)
                if (column + i >= column_first && column + i < min(column_last, place.left + place.width))
                    to[column + i] = Dtype::store(of_row[i]);
        }
    }

    __syncthreads();
    const int outliers = tile.is_sound ? tile.outlier_count : 0;
    for (int i = threadIdx.x; i < outliers; i += kThreads) {
        const int position = static_cast<int>(u16_at(tile.outliers + 2 * i));
        const int row = place.top + position / place.width, column = place.left + position % place.width;
        if (position >= place.wanted || row < row_first || column < column_first || column >= column_last) continue;
        constexpr int kBytes = sizeof(typename Source::Stored);
        const u8* stored = tile.outliers + 2 * outliers + kBytes * i;
        u32 bits = u16_at(stored);
        if constexpr (kBytes == 4) bits |= u16_at(stored + 2) << 16;
        values[static_cast<i64>(row - row_first) * width + column - column_first] = converted<Source, Dtype>(bits);
    }
}

}  // namespace tilepress
