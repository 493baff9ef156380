// Dense values of a range, from the pieces of a `Source` (panels.hpp) and with a `Set` (product_values.hpp).
#pragma once

#include "panels.hpp"
#include "product_values.hpp"

namespace tilepress {
namespace {

// The part of a panel that lies in the rows and columns of a range.
inline Rectangle part_of_panel(std::int64_t panel, const Range& rows, const Range& columns) {
    return {{larger(panel * kSide, rows.first), smaller((panel + 1) * kSide, rows.last)}, columns};
}

// `count` float32 to consecutive values of `dtype`.
template <class Set>
void convert(const float* from, std::int64_t count, void* to, Dtype dtype) {
    auto* bytes = static_cast<std::byte*>(to);
    std::int64_t i = 0;
    for (; i + kSide <= count; i += kSide) store_values<Set>(Set::load(from + i), bytes + i * size_of(dtype), dtype);
    if (i == count) return;
    alignas(64) float values[kSide] = {};
    alignas(64) std::byte rounded[kSide * 4];
    std::memcpy(values, from + i, static_cast<std::size_t>(count - i) * sizeof(float));
    store_values<Set>(Set::load(values), rounded, dtype);
    std::memcpy(bytes + i * size_of(dtype), rounded, static_cast<std::size_t>((count - i) * size_of(dtype)));
}

// Round float32 values to those that `dtype` holds: for sources that compute in float32.
template <class Set>
void round_to(Dtype dtype, float* values, std::int64_t count) {
    if (dtype == Dtype::float32) return;
    alignas(64) std::uint16_t rounded[kSide];
    for (std::int64_t i = 0; i < count; i += kSide) {
        const std::int64_t left = smaller(kSide, count - i);
        convert<Set>(values + i, left, rounded, dtype);
        const auto back = load_values<Set>(rounded, dtype, 0, left);
        alignas(64) float whole[kSide];
        Set::store(whole, back);
        std::memcpy(values + i, whole, static_cast<std::size_t>(left) * sizeof(float));
    }
}

// Write what a piece and a range have in common.
template <class Set>
void write_piece(const Piece& piece, const Dense& dense) {
    const Range rows{larger(piece.rows.first, dense.rows.first), smaller(piece.rows.last, dense.rows.last)};
    const Range columns{larger(piece.columns.first, dense.columns.first),
                        smaller(piece.columns.last, dense.columns.last)};
    if (columns.first >= columns.last) return;
    const std::int64_t width = dense.columns.last - dense.columns.first;
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
        const float* from =
            piece.values + (row - piece.rows.first) * piece.stride + columns.first - piece.columns.first;
        const std::int64_t place = (row - dense.rows.first) * width + columns.first - dense.columns.first;
        convert<Set>(from, columns.last - columns.first,
                     static_cast<std::byte*>(dense.values) + place * size_of(dense.dtype), dense.dtype);
    }
}

template <class Set, class Source>
void decode_panels(const Source& source, Range panels, const Dense& dense) {
    typename Source::Scratch scratch;
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel)
        source.decode(panel, part_of_panel(panel, dense.rows, dense.columns), scratch,
                      [&](const Piece& piece) { write_piece<Set>(piece, dense); });
}

}  // namespace
}  // namespace tilepress
