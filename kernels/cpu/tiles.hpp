// Fixed-rate tiles (`int`, `nf4`, `fp8`, `mxfp4`, `nvfp4`): what the kernels of every instruction set take and offer.
//
// The layout is that of kernels/layout/tiles.py: a panel is 16 rows, a tile 16 x 16 codes in planes of 8, 4, 2 and 1
// bits, and each panel has 16 scales (and maybe zero points) a group of columns.
//
//     codes        [panels][tiles][32 bits] bytes
//     scales       [panels][groups][16] of 2 bytes (bfloat16) or 1 (e8m0; e4m3, which global_scale multiplies)
//     zero_points  [panels][groups][16] bytes, or null
#pragma once

#include <cstddef>
#include <cstdint>

#include "product.hpp"

namespace tilepress {

constexpr std::int64_t kTileValues = kSide * kSide;

enum class Code { integer, nf4, e4m3, e5m2, e2m1 };
enum class ScaleFormat { bfloat16, e8m0, e4m3 };

struct Tiles {
    const std::uint8_t* codes;
    const std::uint8_t* scales;
    const std::uint8_t* zero_points;
    Code code;
    ScaleFormat scale_format;
    float global_scale;
    int bits;
    std::int64_t panels;
    std::int64_t tiles;        // of a panel
    std::int64_t group_tiles;  // tiles of a group; the last group may be shorter
    std::int64_t groups;

    std::int64_t tile_bytes() const { return 32 * bits; }
    const std::uint8_t* tile(std::int64_t panel, std::int64_t tile) const {
        return codes + (panel * tiles + tile) * tile_bytes();
    }
};

// Kernels of one instruction set. Each works on the panels `panels` of the range; other threads take the others.
struct TileKernels {
    void (*decode)(const Tiles&, Range panels, const Dense&);
    // Bytes that `prepare` writes: x in the form that `multiply` reads, aligned to 64 bytes.
    std::int64_t (*prepared_bytes)(const Tiles&, const Product&);
    void (*prepare)(const Tiles&, const Product&, std::byte* prepared);
    void (*multiply)(const Tiles&, Range panels, const Product&, const std::byte* prepared);
};

TileKernels portable_tile_kernels();
TileKernels avx2_tile_kernels();
TileKernels avx512_tile_kernels();

}  // namespace tilepress
