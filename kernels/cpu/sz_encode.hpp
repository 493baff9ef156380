// The encoder of `sz` (sz.hpp): the code that suits a tensor, and its tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "rans_encode.hpp"
#include "sz_quantize.hpp"

namespace tilepress {

// The table of a code, kSzTableBytes, and back. False where a table is damaged.
void write_sz_table(const SzCode& code, std::uint8_t* table);
bool read_sz_table(const std::uint8_t* table, Predictor predictor, SzCode& code);

class SzEncoder {
public:
    SzEncoder(const SzCode& code, double bound) : code_(code), encoder_(code.model), bound_(bound) {}

    // What one thread needs beside it.
    struct Room {
        std::vector<std::int32_t> residuals = std::vector<std::int32_t>(kSzTileValues);
        std::vector<std::int32_t> exceptions = std::vector<std::int32_t>(kSzTileValues);
        std::vector<std::int32_t> outliers;
        std::vector<std::uint8_t> symbols = std::vector<std::uint8_t>(kSzTileValues);
        std::vector<std::uint8_t> low = std::vector<std::uint8_t>(kSzTileValues);
        std::vector<std::uint8_t> packed = std::vector<std::uint8_t>(2 * kSzTileValues);
        std::vector<std::uint8_t> stream = std::vector<std::uint8_t>(kRansStateBytes + kSzTileValues);
    };

    // Write a tile of at most `most_sz_tile_bytes` to `to`; returns its bytes.
    std::int64_t encode(const SzBlock& block, Room& room, std::uint8_t* to) const;

private:
    SzCode code_;
    RansEncoder encoder_;
    double bound_;
};

}  // namespace tilepress
