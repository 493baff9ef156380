#include "sz_table.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tilepress {

void write_sz_table(const SzCode& code, std::uint8_t* table) {
    std::memset(table, 0, kSzTableBytes);
    std::memcpy(table, &code.step, sizeof code.step);
    table[4] = static_cast<std::uint8_t>(code.shift);
    std::copy_n(code.model.symbols, kRansEntries, table + kSzTableHead);
    std::copy_n(code.model.frequencies, kRansEntries, table + kSzTableHead + kRansEntries);
}

bool read_sz_table(const std::uint8_t* table, Predictor predictor, SzCode& code) {
    code.predictor = predictor;
    std::memcpy(&code.step, table, sizeof code.step);
    code.shift = table[4];
    std::copy_n(table + kSzTableHead, kRansEntries, code.model.symbols);
    std::copy_n(table + kSzTableHead + kRansEntries, kRansEntries, code.model.frequencies);
    return std::isfinite(code.step) && code.step > 0 && code.shift <= kSzMostShift && code.model.complete();
}

}  // namespace tilepress
