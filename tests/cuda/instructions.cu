// One kernel for each group of wrappers of device.cuh: what tests/cuda/test_instructions.py compares with the manual.
//
// grid 1, block 32 (a warp); lane i reads and writes row i of each operand.
#include "layout.cuh"

namespace tilepress {

// a [32][4], b [32][2], sums [32][4]: registers of each lane.
template <class Dtype>
__global__ void mma_fragments(const u32* a, const u32* b, float* sums) {
    u32 of_a[4], of_b[2];
    float of_sums[4];
    for (int i = 0; i < 4; ++i) of_a[i] = a[4 * threadIdx.x + i];
    for (int i = 0; i < 2; ++i) of_b[i] = b[2 * threadIdx.x + i];
    for (int i = 0; i < 4; ++i) of_sums[i] = sums[4 * threadIdx.x + i];
    Dtype::mma(of_sums, of_a, of_b);
    for (int i = 0; i < 4; ++i) sums[4 * threadIdx.x + i] = of_sums[i];
}

struct Plain {
    static TILEPRESS_DEVICE void load(u32 (&words)[4], const void* row) { load_matrices(words, row); }
};
struct Transposed {
    static TILEPRESS_DEVICE void load(u32 (&words)[4], const void* row) { load_matrices_transposed(words, row); }
};

// rows [32][4 words] go to shared memory by asynchronous copies; lane i brings the address of row order[i] to ldmatrix.
// words [32][4]: what each lane gets.
template <class How>
__global__ void matrices(const u32* rows, const int* order, u32* words) {
    TILEPRESS_DYNAMIC_SHARED(shared);
    copy_async(shared + 16 * threadIdx.x, rows + 4 * threadIdx.x);
    copies_commit();
    copies_commit();
    copies_wait<1>();
    __syncwarp();
    u32 loaded[4];
    How::load(loaded, shared + 16 * order[threadIdx.x]);
    for (int i = 0; i < 4; ++i) words[4 * threadIdx.x + i] = loaded[i];
}

// operands [32][3] -> results [32][7].
template <int kUnused = 0>
__global__ void words(const u32* operands, u32* results) {
    const u32 a = operands[3 * threadIdx.x], b = operands[3 * threadIdx.x + 1], c = operands[3 * threadIdx.x + 2];
    const u32 of_lane[7] = {
        select_bytes(a, b, c & 0x7777u),
        shift_right(a, b, c & 31u),
        dot_bytes(a, b, c),
        fp16x2_multiply_add(a, b, c),
        bf16x2_multiply_add(a, b, c),
        fp16x2_of_floats(float_of_bits(a), float_of_bits(b)),
        bf16x2_of_floats(float_of_bits(a), float_of_bits(b)),
    };
    for (int i = 0; i < 7; ++i) results[7 * threadIdx.x + i] = of_lane[i];
}

// operands [32][2] -> results [32][5].
template <int kUnused = 0>
__global__ void floats(const float* operands, float* results) {
    const float a = operands[2 * threadIdx.x], b = operands[2 * threadIdx.x + 1];
    const float of_lane[5] = {multiply(a, b), add(a, b), subtract(a, b), float_of_fp16(fp16_of_float(a)),
                              float_of_bits(static_cast<u32>(bf16_of_float(a)) << 16)};
    for (int i = 0; i < 5; ++i) results[5 * threadIdx.x + i] = of_lane[i];
}

}  // namespace tilepress
