// What the bindings of `lossless` check alike.
#pragma once

#include <string>

#include "buffers.hpp"
#include "lossless_table.hpp"

namespace tilepress {
namespace {

inline std::int64_t blocks_of(std::int64_t columns) {
    return (columns + kBlockColumns - 1) / kBlockColumns;
}

inline std::int64_t panels_of(std::int64_t rows) {
    return (rows + kSide - 1) / kSide;
}

inline void require_shape(std::int64_t rows, std::int64_t columns) {
    require(0 <= rows && rows <= kMost && 0 <= columns && columns <= kMost, "the weight's shape is out of bounds");
}

inline PlaneCodes checked_table(const std::string& dtype, const Buffer& table) {
    PlaneCodes codes;
    const Dtype known = dtype_named(dtype);
    require(holds(table, 1, 1, kTableHead + cut_of(known).count * kTablePlane), "the table does not fit the dtype");
    require(read_table(known, reinterpret_cast<const std::uint8_t*>(table.first), codes), "the table is damaged");
    return codes;
}

}  // namespace
}  // namespace tilepress
