// Powers of two by which rows of x are scaled before they are rounded to float16, whose range is small.
#pragma once

#include "layout.cuh"

namespace tilepress {

struct Scaling {
    float to, back;
};

// Of a row: the largest magnitude comes to lie between 2^13 and 2^14. `shared`: 4 bytes a warp. The block meets here.
TILEPRESS_DEVICE Scaling scaling_of(const float* row, int width, u8* shared) {
    auto* of_warps = reinterpret_cast<u32*>(shared);
    u32 largest = 0;
    for (int i = threadIdx.x; i < width; i += kThreads) largest = max(largest, bits_of_float(row[i]) & 0x7fffffffu);
    for (int lanes = 16; lanes > 0; lanes /= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < kWarps; ++i) largest = max(largest, of_warps[i]);
    const int exponent = min(max(267 - static_cast<int>(largest >> 23), 1), 253);
    return {float_of_bits(static_cast<u32>(exponent) << 23), float_of_bits(static_cast<u32>(254 - exponent) << 23)};
}

}  // namespace tilepress
