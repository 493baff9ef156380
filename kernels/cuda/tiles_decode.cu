// Dense values of a range of rows and columns of a weight in tiles, bit for bit those of the reference.
//
// grid    (strips of 16 tiles, panels), block 256
// shared  the strip's codes, 32 bits + 16 bytes a tile, and a book of 64 bytes
// moves   bits / 8 bytes of codes and the values' bytes a weight; each once
//
// A warp decodes one row of the strip's upper half and then that of the lower half, 8 consecutive values a lane.
#include "tiles.cuh"

namespace tilepress {

constexpr int kStripTiles = 16;
constexpr int kLaneValues = 8;

template <class Code, class Scale, class Dtype>
__global__ void __launch_bounds__(kThreads)
    tiles_decode(const u8* codes, const u8* scales, const u8* zero_points, const float* global_scale, void* values,
                 int tiles, int groups, int group_tiles, int row_first, int row_last, int column_first, int column_last,
                 int is_aligned) {
    using Stored = typename Dtype::Stored;
    constexpr int kTileBytes = 32 * Code::kBits;
    // So far apart, the tiles' rows lie in different banks.
    constexpr int kStride = kTileBytes + 16;
    TILEPRESS_DYNAMIC_SHARED(strip);
    auto* book = reinterpret_cast<float*>(strip + kStripTiles * kStride);

    const int panel = row_first / kSide + blockIdx.y;
    const int tile_first = column_first / kSide + blockIdx.x * kStripTiles;
    const int strip_tiles = min(kStripTiles, tiles - tile_first);
    const u8* from = codes + (static_cast<i64>(panel) * tiles + tile_first) * kTileBytes;
    for (int i = threadIdx.x; i < strip_tiles * kTileBytes / 16; i += kThreads)
        copy_async(strip + i / (kTileBytes / 16) * kStride + i % (kTileBytes / 16) * 16, from + 16 * i);
    copies_commit();
    if constexpr (Code::kIsBook)
        if (threadIdx.x < 16) book[threadIdx.x] = Code::book(threadIdx.x);
    copies_wait<0>();
    __syncthreads();

    const int tile = threadIdx.x % 32 / 2, column = threadIdx.x % 2 * kLaneValues;
    if (tile >= strip_tiles) return;
    const int row = threadIdx.x / 32;
    u32 of_rows[2][2];
    for (int i = 0; i < 2; ++i)
        read_codes<Code::kBits>(strip + tile * kStride, row, column / 4 + i, of_rows[0][i], of_rows[1][i]);
    const int matrix_column = (tile_first + tile) * kSide + column;
    const i64 group = static_cast<i64>(panel) * groups + (tile_first + tile) / group_tiles;
    const int width = column_last - column_first;
    for (int half = 0; half < 2; ++half) {
        const int matrix_row = panel * kSide + row + 8 * half;
        if (matrix_row < row_first || matrix_row >= row_last) continue;
        const i64 place = group * kSide + row + 8 * half;
        const float scale = Scale::scale(scales, place, global_scale);
        float zero = static_cast<float>(1 << (Code::kBits - 1));
        if (Code::kIsInteger && zero_points != nullptr) zero = static_cast<float>(static_cast<int>(zero_points[place]));
        float decoded[kLaneValues];
        for (int i = 0; i < kLaneValues; ++i) {
            const u32 code = of_rows[half][i / 4] >> (8 * (i % 4)) & 255u;
            if constexpr (Code::kIsBook)
                decoded[i] = multiply(book[code], scale);
            else if constexpr (Code::kIsInteger)
                decoded[i] = multiply(subtract(Code::value(code), zero), scale);
            else
                decoded[i] = multiply(Code::value(code), scale);
        }
        Stored* to = static_cast<Stored*>(values) + static_cast<i64>(matrix_row - row_first) * width;
        if (is_aligned && matrix_column >= column_first && matrix_column + kLaneValues <= column_last) {
            store_lane<Dtype>(to + matrix_column - column_first, decoded);
        } else {
            for (int i = 0; i < kLaneValues; ++i)
                if (matrix_column + i >= column_first && matrix_column + i < column_last)
                    to[matrix_column + i - column_first] = Dtype::store(decoded[i]);
        }
    }
}

}  // namespace tilepress
