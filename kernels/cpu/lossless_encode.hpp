// The encoder of `lossless` (lossless.hpp). What it writes depends on nothing but its arguments.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "lossless.hpp"
#include "rans_encode.hpp"

namespace tilepress {

// How often each plane has each byte, of `count` values of `dtype`: added to [planes][256].
void count_planes(Dtype dtype, const void* values, std::int64_t count, std::int64_t* counts);

// The table of a tensor with these counts: kTableHead + planes * kTablePlane bytes.
void write_table(Dtype dtype, const std::int64_t* counts, std::uint8_t* table);

// False where a table is none that `write_table` can have written.
bool read_table(Dtype dtype, const std::uint8_t* table, PlaneCodes& codes);

// Encodes blocks of a tensor, each alone.
class LosslessEncoder {
public:
    // What one thread needs beside it.
    struct Room;
    static std::unique_ptr<Room, void (*)(Room*)> room();

    explicit LosslessEncoder(const PlaneCodes& codes);

    // A block of `rows` x `width` values, whose rows are `stride` values apart. Returns the bytes written, a multiple
    // of kBlockAlignment and at most `most_block_bytes`.
    std::int64_t encode(const void* values, std::int64_t rows, std::int64_t width, std::int64_t stride, Room& room,
                        std::uint8_t* to) const;

private:
    PlaneCodes codes_;
    std::optional<RansEncoder> encoders_[kMostPlanes];
};

}  // namespace tilepress
