// The encoder of `lossless` (lossless.hpp), for every instruction set. What it writes depends on nothing but its
// arguments.
#pragma once

#include <cstdint>

#include "lossless.hpp"
#include "values.hpp"

namespace tilepress {

// A matrix and how its planes are coded.
struct LosslessMatrix {
    PlaneCodes codes;
    const void* values;
    std::int64_t rows;
    std::int64_t columns;

    std::int64_t blocks_across() const { return (columns + kBlockColumns - 1) / kBlockColumns; }
};

struct LosslessEncodeKernels {
    // Encode the blocks `range`, numbered panel by panel, one after the other to `to`. Block n takes sizes[n] bytes: a
    // multiple of kBlockAlignment and at most `most_block_bytes`.
    void (*encode)(const LosslessMatrix&, Range range, std::uint8_t* to, std::int64_t* sizes);
};

LosslessEncodeKernels portable_lossless_encode_kernels();
LosslessEncodeKernels avx2_lossless_encode_kernels();
LosslessEncodeKernels avx512_lossless_encode_kernels();

}  // namespace tilepress
