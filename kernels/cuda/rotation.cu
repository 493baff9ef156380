// The rotation of kernels/layout/rotation.py, in float32, in the order of sums that kernels/reference/rotation.py
// defines; bit for bit its result.
//
// Values are `lines` lines of a side: value i of line j is at i * stride + j * line_stride. A grid has a block for each
// piece of a line, those of a line side by side.
#include "layout.cuh"

namespace tilepress {

TILEPRESS_DEVICE float signed_by(const u8* signs, i64 place, float value) {
    return signs[place / 8] >> (place % 8) & 1 ? -value : value;
}

// Signs where `signs_first`, then the Walsh-Hadamard matrix of `power` values, then signs where `signs_last`; in place.
//
// grid    lines * pieces of `power` values of a line, block 256
// shared  4 power bytes, at most 16 KiB
// moves   each value once in, once out
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    walsh_hadamard(float* values, const u8* signs, int pieces, int power, float scale, i64 stride, i64 line_stride,
                   int signs_first, int signs_last) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    auto* piece = reinterpret_cast<float*>(shared);
    const i64 first = static_cast<i64>(blockIdx.x % pieces) * power;
    float* of_line = values + blockIdx.x / pieces * line_stride;
    for (int i = threadIdx.x; i < power; i += kThreads) {
        const float value = of_line[(first + i) * stride];
        piece[i] = signs_first ? signed_by(signs, first + i, value) : value;
    }
    for (int half = 1; half < power; half *= 2) {
        __syncthreads();
        for (int i = threadIdx.x; i < power / 2; i += kThreads) {
            const int low = i / half * 2 * half + i % half;
            const float a = piece[low], b = piece[low + half];
            piece[low] = add(a, b);
            piece[low + half] = subtract(a, b);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < power; i += kThreads) {
        const float value = multiply(piece[i], scale);
        of_line[(first + i) * stride] = signs_last ? signed_by(signs, first + i, value) : value;
    }
}

// The Hartley matrix of `odd` values that are `power` apart, then signs where `signs_last`; from `values` to `mixed`,
// which is laid out alike.
//
// grid    lines * blocks of odd * power values of a line * parts of 256 columns of a block, block 256
// moves   each value `odd` times in, out of a cache, and once out
template <class Dtype>
__global__ void __launch_bounds__(kThreads)
    hartley(const float* values, float* mixed, const float* table, const u8* signs, int blocks, int odd, int power,
            i64 stride, i64 line_stride, int signs_last) {
    const int parts = (power + kThreads - 1) / kThreads;
    const int column = blockIdx.x % parts * kThreads + threadIdx.x;
    if (column >= power) return;
    const i64 first = static_cast<i64>(blockIdx.x / parts % blocks) * odd * power + column;
    const i64 line = blockIdx.x / parts / blocks * line_stride;
    for (int i = 0; i < odd; ++i) {
        const float* of_row = table + i * odd;
        float sum = multiply(of_row[0], values[line + first * stride]);
        for (int j = 1; j < odd; ++j)
            sum = add(sum, multiply(of_row[j], values[line + (first + static_cast<i64>(j) * power) * stride]));
        const i64 place = first + static_cast<i64>(i) * power;
        mixed[line + place * stride] = signs_last ? signed_by(signs, place, sum) : sum;
    }
}

}  // namespace tilepress
