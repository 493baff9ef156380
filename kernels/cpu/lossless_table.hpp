// The table of `lossless` (lossless.hpp): how a tensor's planes are coded, chosen by how often they have each byte.
#pragma once

#include <cstdint>

#include "lossless.hpp"

namespace tilepress {

// How often each plane has each byte, of `count` values of `dtype`: added to [planes][256].
void count_planes(Dtype dtype, const void* values, std::int64_t count, std::int64_t* counts);

// The table of a tensor with these counts: kTableHead + planes * kTablePlane bytes.
void write_table(Dtype dtype, const std::int64_t* counts, std::uint8_t* table);

// False where a table is none that `write_table` can have written.
bool read_table(Dtype dtype, const std::uint8_t* table, PlaneCodes& codes);

}  // namespace tilepress
