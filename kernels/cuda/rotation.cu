// The rotation of kernels/layout/rotation.py, in float32, in the order of sums that kernels/reference/rotation.py
// defines; bit for bit its result.
//
// A line of a matrix in main memory is one of its rows, where columns are rotated, or one of its columns. Neighbouring
// threads have neighbouring values in memory either way: of a line, or of `kTogether` lines side by side.
#include "layout.cuh"

namespace tilepress {

// Columns are rotated: value i of line j is at j * columns + i.
struct Columns {
    static constexpr int kTogether = 1, kSharedValues = 4096;
    static TILEPRESS_DEVICE i64 place(i64 i, i64 line, int columns) { return line * columns + i; }
    static TILEPRESS_DEVICE bool is_there(i64 i, int columns) { return i < columns; }
};
// Rows are rotated: value i of line j is at i * columns + j.
struct Rows {
    static constexpr int kTogether = 8, kSharedValues = 16384;
    static TILEPRESS_DEVICE i64 place(i64 i, i64 line, int columns) { return i * columns + line; }
    static TILEPRESS_DEVICE bool is_there(i64, int) { return true; }
};

TILEPRESS_DEVICE float signed_by(const u8* signs, i64 place, float value) {
    return signs[place / 8] >> (place % 8) & 1 ? -value : value;
}

// Signs where `signs_first`, then the Walsh-Hadamard matrix of `power` values, then signs where `signs_last`; from
// `from`, of any dtype and with zeros after its `from_columns` columns, to `values`, which may be the same.
//
// grid    pieces of `power` values of a line, for each `together` = min(kTogether, kSharedValues / power) lines;
//         block 256
// shared  4 kSharedValues bytes
// moves   each value once in, once out
template <class Side, class Dtype>
__global__ void __launch_bounds__(kThreads)
    walsh_hadamard(const typename Dtype::Stored* from, float* values, const u8* signs, int from_columns, int columns,
                   int lines, int pieces, int power, float scale, int signs_first, int signs_last) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    auto* piece = reinterpret_cast<float*>(shared);
    const int together = min(Side::kTogether, Side::kSharedValues / power), count = power * together;
    const i64 first = static_cast<i64>(blockIdx.x % pieces) * power;
    const int line_first = blockIdx.x / pieces * together;
    for (int i = threadIdx.x; i < count; i += kThreads) {
        const i64 place = first + i / together;
        const int line = line_first + i % together;
        if (line >= lines) continue;
        const float value =
            Side::is_there(place, from_columns) ? Dtype::load(from[Side::place(place, line, from_columns)]) : 0.0f;
        piece[i] = signs_first ? signed_by(signs, place, value) : value;
    }
    for (int half = together; half < count; half *= 2) {
        __syncthreads();
        for (int i = threadIdx.x; i < count / 2; i += kThreads) {
            const int low = i / half * 2 * half + i % half;
            const float a = piece[low], b = piece[low + half];
            piece[low] = add(a, b);
            piece[low + half] = subtract(a, b);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
        const i64 place = first + i / together;
        const int line = line_first + i % together;
        if (line >= lines) continue;
        const float value = multiply(piece[i], scale);
        values[Side::place(place, line, columns)] = signs_last ? signed_by(signs, place, value) : value;
    }
}

// The Hartley matrix of `odd` values that are `power` apart, then signs where `signs_last`; from `values` to `mixed`,
// which is laid out alike.
//
// grid    for each kTogether lines, blocks of odd * power values of a line, each in parts of 256 / kTogether of `power`
//         values; block 256
// moves   each value `odd` times in, out of a cache, and once out
template <class Side>
__global__ void __launch_bounds__(kThreads)
    hartley(const float* values, float* mixed, const float* table, const u8* signs, int lines, int blocks, int odd,
            int power, int columns, int signs_last) {
    constexpr int kPart = kThreads / Side::kTogether;
    const int parts = (power + kPart - 1) / kPart;
    const int of_part = blockIdx.x % parts * kPart + threadIdx.x / Side::kTogether;
    const int line = blockIdx.x / parts / blocks * Side::kTogether + threadIdx.x % Side::kTogether;
    if (of_part >= power || line >= lines) return;
    const i64 first = static_cast<i64>(blockIdx.x / parts % blocks) * odd * power + of_part;
    for (int i = 0; i < odd; ++i) {
        const float* of_row = table + i * odd;
        float sum = multiply(of_row[0], values[Side::place(first, line, columns)]);
        for (int j = 1; j < odd; ++j)
            sum =
                add(sum, multiply(of_row[j], values[Side::place(first + static_cast<i64>(j) * power, line, columns)]));
        const i64 place = first + static_cast<i64>(i) * power;
        mixed[Side::place(place, line, columns)] = signs_last ? signed_by(signs, place, sum) : sum;
    }
}

}  // namespace tilepress
