// zfp streams (LLNL zfp 1.0): what the kernels of every instruction set take and offer.
//
// A stream holds the blocks of one array of 1 to 3 dimensions, the last dimension fastest, without a header; it is a
// whole number of 64-bit words. The codec `zfp` keeps a stream of its own for each panel of 16 rows:
//
//     payload  the streams of all panels
//     offsets  [panels + 1] where each panel begins, in bytes
#pragma once

#include <cstdint>

#include "panels.hpp"

namespace tilepress {

constexpr std::int64_t kZfpSide = 4;

// zfp's four parameters. Modes set them: rate the bits, precision the planes, tolerance the exponent.
struct ZfpMode {
    std::int64_t least_bits;  // of a block
    std::int64_t most_bits;
    int most_planes;
    int least_exponent;  // of the lowest plane that is coded
    bool is_reversible;

    bool has_fixed_rate() const { return least_bits == most_bits; }
};

// An array, the last dimension fastest; dimensions that it does not have are 1.
struct ZfpShape {
    int dims;
    std::int64_t sizes[3];  // x (fastest), y, z

    std::int64_t blocks() const {
        std::int64_t count = 1;
        for (int i = 0; i < dims; ++i) count *= (sizes[i] + kZfpSide - 1) / kZfpSide;
        return count;
    }
};

struct ZfpStream {
    const std::uint8_t* bytes;
    std::int64_t size;
};

// A matrix of `rows` x `columns` as the parts of the codec.
struct ZfpPanels {
    const std::uint8_t* payload;
    const std::int64_t* offsets;
    std::int64_t rows;
    std::int64_t columns;
    ZfpMode mode;

    ZfpStream stream(std::int64_t panel) const {
        return {payload + offsets[panel], offsets[panel + 1] - offsets[panel]};
    }
};

// Kernels of one instruction set. A decoder reads zeros past the end of a stream. `encode_*` write whole words, at most
// `zfp_most_bytes`, and return how many bytes.
struct ZfpKernels {
    void (*decode_float)(const ZfpStream& stream, const ZfpShape& shape, const ZfpMode& mode, float* values);
    void (*decode_double)(const ZfpStream& stream, const ZfpShape& shape, const ZfpMode& mode, double* values);
    std::int64_t (*encode_float)(const float* values, const ZfpShape& shape, const ZfpMode& mode, std::uint8_t* to);
    std::int64_t (*encode_double)(const double* values, const ZfpShape& shape, const ZfpMode& mode, std::uint8_t* to);
    // The same as `encode_float`, for the few rows of a panel.
    std::int64_t (*encode_panel)(const float* values, const ZfpShape& shape, const ZfpMode& mode, std::uint8_t* to);
    PanelKernels<ZfpPanels> panels;
};

ZfpKernels portable_zfp_kernels();
ZfpKernels avx2_zfp_kernels();
ZfpKernels avx512_zfp_kernels();

}  // namespace tilepress
