// Dense values of a range of rows and columns of a weight of zfp panels, bit for bit those of the reference.
#include "zfp.cuh"

namespace tilepress {

// Blocks of a fixed number of bits: a thread decodes one.
//
// grid    blocks of the range / 256, block 256
// shared  none
// moves   the bits of the blocks, and the bytes of the values, once
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    zfp_decode_fixed(const u8* payload, i64 payload_bytes, const i64* offsets, typename Dtype::Stored* values, int bits,
                     int items, int columns, int row_first, int row_last, int column_first, int column_last) {
    const int item = blockIdx.x * kThreads + threadIdx.x;
    if (item >= items) return;
    const int left = column_first / kZfpSide, across = (column_last + kZfpSide - 1) / kZfpSide - left;
    const int line = row_first / kZfpSide + item / across, column = (left + item % across) * kZfpSide;
    const int of_panel = kSide / kZfpSide, panel_across = (columns + kZfpSide - 1) / kZfpSide;
    const ZfpStream stream(payload_bytes, offsets, line / of_panel);
    float block[kZfpValues];
    decode_fixed(payload, stream, static_cast<i64>(line % of_panel) * panel_across + column / kZfpSide, bits, block);
#pragma unroll
    for (int i = 0; i < kZfpValues; ++i) {
        const int row = line * kZfpSide + i / kZfpSide, place = column + i % kZfpSide;
        if (row >= row_first && row < row_last && place >= column_first && place < column_last)
            values[static_cast<i64>(row - row_first) * (column_last - column_first) + place - column_first] =
                Dtype::store(block[i]);
    }
}

// Blocks whose lengths differ: a warp reads a panel from its beginning, two blocks at a time. All lanes follow the
// bits, and each keeps one coefficient of one of the blocks.
//
// grid    panels / 8, block 256
// shared  none
// moves   the bits of the panels, and the bytes of the values, once
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    zfp_decode_variable(const u8* payload, i64 payload_bytes, const i64* offsets, typename Dtype::Stored* values,
                        int most_planes, int least_exponent, int is_reversible, int items, int columns, int row_first,
                        int row_last, int column_first, int column_last) {
    const int item = blockIdx.x * kWarps + threadIdx.x / 32;
    if (item >= items) return;
    constexpr u32 all = 0xffffffffu;
    const ZfpMode mode{most_planes, least_exponent, is_reversible};
    const int lane = threadIdx.x % 32, half = lane / kZfpValues, place = lane % kZfpValues;
    const int order = static_cast<int>(kZfpOrder >> (4 * place) & 15);
    const int panel = row_first / kSide + item, bottom = min(row_last, (panel + 1) * kSide);
    const ZfpStream stream(payload_bytes, offsets, panel);
    ZfpBits reader;
    reader.open(payload, stream.begin, stream.end);
    for (int top = panel * kSide; top < bottom; top += kZfpSide)
        for (int left = 0; left < columns; left += 2 * kZfpSide) {
            u32 integer = 0;
            ZfpHeader own{0, 0, false};
            for (int block = 0; block < 2 && left + block * kZfpSide < columns; ++block) {
                const ZfpHeader header = is_reversible ? reversible_header(reader) : lossy_header(reader, mode);
                u32 coefficient = 0;
                const int planes = read_planes(reader, kUnlimited, header.planes, [&](u32 plane) {
                    coefficient = coefficient << 1 | (plane >> order & 1u);
                });
                if (block != half) continue;
                integer = integer_of(coefficient, planes);
                own = header;
            }
            // Along y, then along x: every lane takes a line, and keeps its own value of it.
            for (int stride = kZfpSide; stride > 0; stride /= kZfpSide) {
                const int mine = place / stride % kZfpSide;
                u32 of_line[kZfpSide];
#pragma unroll
                for (int i = 0; i < kZfpSide; ++i) of_line[i] = __shfl_sync(all, integer, lane + (i - mine) * stride);
                if (is_reversible)
                    difference_inverse(of_line[0], of_line[1], of_line[2], of_line[3]);
                else
                    lift_inverse(of_line[0], of_line[1], of_line[2], of_line[3]);
                integer = mine == 0 ? of_line[0] : mine == 1 ? of_line[1] : mine == 2 ? of_line[2] : of_line[3];
            }
            float value = scaled(integer, own.exponent);
            if (is_reversible && own.exponent == 0) value = 0.0f;
            // Sign and magnitude from two's complement.
            if (own.is_raw) value = float_of_bits(integer ^ (integer >> 31) * 0x7fffffffu);
            if (!stream.is_sound) value = float_of_bits(0x7fffffffu);
            const int row = top + place / kZfpSide, column = left + half * kZfpSide + place % kZfpSide;
            if (row >= row_first && row < row_last && column >= column_first && column < column_last)
                values[static_cast<i64>(row - row_first) * (column_last - column_first) + column - column_first] =
                    Dtype::store(value);
        }
}

}  // namespace tilepress
