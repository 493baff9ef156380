// What the bindings of `sz` check alike.
#pragma once

#include <string>

#include "buffers.hpp"
#include "sz_table.hpp"

namespace tilepress {
namespace {

inline Predictor predictor_named(const std::string& name) {
    if (name == "none") return Predictor::none;
    if (name == "lorenzo1") return Predictor::lorenzo1;
    if (name == "lorenzo2") return Predictor::lorenzo2;
    throw std::invalid_argument("there is no predictor of this name");
}

inline std::int64_t tiles_of(std::int64_t columns) {
    return (columns + kSzColumns - 1) / kSzColumns;
}

inline std::int64_t panels_of(std::int64_t rows) {
    return (rows + kSide - 1) / kSide;
}

inline void require_shape(std::int64_t rows, std::int64_t columns) {
    require(0 <= rows && rows <= kMost && 0 <= columns && columns <= kMost, "the weight's shape is out of bounds");
}

inline SzCode checked_table(const Buffer& table, const std::string& predictor) {
    SzCode code;
    require(holds(table, 1, 1, kSzTableBytes), "the table has a wrong length");
    require(read_sz_table(reinterpret_cast<const std::uint8_t*>(table.first), predictor_named(predictor), code),
            "the table is damaged");
    return code;
}

}  // namespace
}  // namespace tilepress
