// The table of `sz` (sz.hpp).
#pragma once

#include <cstdint>

#include "sz.hpp"

namespace tilepress {

// The table of a code, kSzTableBytes, and back. False where a table is damaged.
void write_sz_table(const SzCode& code, std::uint8_t* table);
bool read_sz_table(const std::uint8_t* table, Predictor predictor, SzCode& code);

}  // namespace tilepress
