// Products of a few rows of x, from the pieces of a `Source` (panels.hpp) and with a `Set` (product_values.hpp): a
// piece is multiplied as soon as it is decoded, while it lies in a near cache, and its sums are added up in float32.
#pragma once

#include "panel_decode.hpp"

namespace tilepress {
namespace {

// Sums of a panel's rows and of every row of x.
struct PanelSums {
    float of[kMostVectors][kSide];
};

// `Rows` rows of a piece and `Count` rows of x, which begin at the piece's first row and column.
template <class Set, int Rows, int Count>
inline void add_rows_of_piece(const float* values, std::int64_t stride, std::int64_t width, const float* x,
                              std::int64_t x_stride, float (*sums)[kSide]) {
    typename Set::Values totals[Rows][Count];
    for (auto& of_row : totals)
        for (auto& total : of_row) total = Set::broadcast(0.0f);
    std::int64_t column = 0;
    for (; column + kSide <= width; column += kSide)
        for (int row = 0; row < Rows; ++row) {
            const auto weights = Set::load(values + row * stride + column);
            for (int vector = 0; vector < Count; ++vector)
                totals[row][vector] =
                    Set::multiply_add(weights, Set::load(x + vector * x_stride + column), totals[row][vector]);
        }
    for (int row = 0; column < width && row < Rows; ++row) {
        const auto weights = load_values<Set>(values + row * stride, Dtype::float32, column, width - column);
        for (int vector = 0; vector < Count; ++vector)
            totals[row][vector] =
                Set::multiply_add(weights, Set::load(x + vector * x_stride + column), totals[row][vector]);
    }
    for (int row = 0; row < Rows; ++row)
        for (int vector = 0; vector < Count; ++vector) sums[vector][row] += Set::sum(totals[row][vector]);
}

template <class Set, int Count>
void add_piece(const Piece& piece, const float* x, std::int64_t x_stride, float (*sums)[kSide]) {
    const std::int64_t width = piece.columns.last - piece.columns.first;
    const std::int64_t first = piece.rows.first % kSide;
    const std::int64_t last = first + piece.rows.last - piece.rows.first;
    constexpr int rows = 4;
    for (std::int64_t row = first; row < last;) {
        const float* values = piece.values + (row - first) * piece.stride;
        float (*of_row)[kSide] = reinterpret_cast<float (*)[kSide]>(&sums[0][row]);
        if (last - row >= rows) {
            add_rows_of_piece<Set, rows, Count>(values, piece.stride, width, x, x_stride, of_row);
            row += rows;
        } else {
            add_rows_of_piece<Set, 1, Count>(values, piece.stride, width, x, x_stride, of_row);
            row += 1;
        }
    }
}

template <class Set>
void add_piece_to_all(const Piece& piece, const Product& product, const float* x, PanelSums& sums) {
    const std::int64_t stride = rounded_up(product.columns, kSide);
    x += piece.columns.first;
    for (std::int64_t vector = 0; vector < product.count;) {
        const std::int64_t left = product.count - vector;
        if (Set::most_vectors >= 4 && left >= 4) {
            add_piece<Set, 4>(piece, x + vector * stride, stride, sums.of + vector);
            vector += 4;
        } else if (left >= 2) {
            add_piece<Set, 2>(piece, x + vector * stride, stride, sums.of + vector);
            vector += 2;
        } else {
            add_piece<Set, 1>(piece, x + vector * stride, stride, sums.of + vector);
            vector += 1;
        }
    }
}

template <class Set, class Source>
void multiply_panels(const Source& source, Range panels, const Product& product, const float* x) {
    typename Source::Scratch scratch;
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        PanelSums sums = {};
        source.decode(panel, part_of_panel(panel, product.rows, {0, product.columns}), scratch,
                      [&](const Piece& piece) { add_piece_to_all<Set>(piece, product, x, sums); });
        for (std::int64_t vector = 0; vector < product.count; ++vector)
            finish<Set>(product, panel, vector, sums.of[vector]);
    }
}

}  // namespace
}  // namespace tilepress
