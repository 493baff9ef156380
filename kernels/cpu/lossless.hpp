// The payload of `lossless`, version 2: what the kernels of every instruction set take and offer.
//
// The layout is that of kernels/layout/lossless.py. A value is cut into planes, lowest bits first; a panel into blocks
// of 1024 columns. A block codes each plane for itself: as one byte that all values have, as it is, or by rANS
// (rans.hpp) with the rest aside.
#pragma once

#include <atomic>
#include <cstdint>

#include "panels.hpp"
#include "rans.hpp"

namespace tilepress {

constexpr std::int64_t kBlockColumns = 1024;
constexpr std::int64_t kBlockValues = kSide * kBlockColumns;
constexpr int kMostPlanes = 4;
// Of the table: the modes and constants of all planes, and each plane's entries.
constexpr std::int64_t kTableHead = 16;
constexpr std::int64_t kTablePlane = 2 * kRansEntries;
// Of a block, for each coded plane: exceptions and bytes of the stream. So many exceptions: the plane is as it is.
constexpr std::int64_t kPlaneHead = 4;
constexpr unsigned kStoredPlane = 0xffff;
constexpr std::int64_t kExceptionBytes = 3;
constexpr std::int64_t kBlockAlignment = 4;

enum class PlaneMode : std::uint8_t { constant, stored, coded };

struct PlaneCode {
    PlaneMode mode;
    std::uint8_t constant;
    RansModel model;
};

// How the values of a dtype are cut.
struct PlaneCut {
    int count;
    int widths[kMostPlanes];  // bits
};

constexpr PlaneCut cut_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::bfloat16:
            return {2, {8, 8}};
        case Dtype::float16:
            return {3, {8, 2, 6}};
        default:
            return {4, {8, 8, 8, 8}};
    }
}

// Bytes of a plane of `count` values that is stored as it is: planes of 8, 4, 2 and 1 bits.
constexpr std::int64_t stored_bytes(int width, std::int64_t count) {
    std::int64_t bytes = 0;
    for (int bits = 8; bits > 0; bits /= 2)
        if (width & bits) bytes += (count * bits + 7) / 8;
    return bytes;
}

// The most that a block of `count` values takes.
constexpr std::int64_t most_block_bytes(Dtype dtype, std::int64_t count) {
    const PlaneCut cut = cut_of(dtype);
    std::int64_t bytes = cut.count * kPlaneHead + kBlockAlignment - 1;
    for (int plane = 0; plane < cut.count; ++plane) bytes += stored_bytes(cut.widths[plane], count);
    return bytes / kBlockAlignment * kBlockAlignment;
}

// What all blocks of a tensor have in common.
struct PlaneCodes {
    Dtype dtype;
    PlaneCut cut;
    PlaneCode planes[kMostPlanes];

    // The plane of whole bytes whose last 32 values travel in the last states of the highest plane, or -1.
    int cargo() const {
        if (planes[cut.count - 1].mode != PlaneMode::coded) return -1;
        for (int plane = 0; plane < cut.count - 1; ++plane)
            if (planes[plane].mode == PlaneMode::stored && cut.widths[plane] == 8) return plane;
        return -1;
    }
};

// One weight. `table` and the number of offsets have been checked; offsets and blocks are checked as they are read.
struct Lossless {
    PlaneCodes codes;
    const std::uint8_t* payload;
    std::int64_t payload_bytes;
    const std::int64_t* offsets;
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t blocks;            // of a panel
    std::atomic<bool>* is_damaged;  // set where a block is not what the encoder wrote
};

using LosslessKernels = PanelKernels<Lossless>;

LosslessKernels portable_lossless_kernels();
LosslessKernels avx2_lossless_kernels();
LosslessKernels avx512_lossless_kernels();

}  // namespace tilepress
