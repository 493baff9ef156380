// Products of a few rows of x with a dense matrix, which is a codec of its own kind (panels.hpp).
//
// In an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include "decoder.hpp"
#include "panel_decode.hpp"

namespace tilepress {
namespace {

// `Rows` rows of the matrix and `Count` rows of x: sums[vector][row].
template <class Set, Dtype kDtype, int Rows, int Count>
inline void add_dense_rows(const DenseMatrix& matrix, std::int64_t row_first, const float* x, float (*sums)[kSide]) {
    typename Set::Values totals[Rows][Count];
    for (auto& of_row : totals)
        for (auto& total : of_row) total = Set::broadcast(0.0f);
    const std::int64_t stride = rounded_up(matrix.columns, kSide);
    for (std::int64_t column = 0; column < matrix.columns; column += kSide) {
        const std::int64_t count = smaller(kSide, matrix.columns - column);
        for (int row = 0; row < Rows; ++row) {
            const auto weights =
                load_values<Set>(matrix.values, kDtype, (row_first + row) * matrix.columns + column, count);
            for (int vector = 0; vector < Count; ++vector)
                totals[row][vector] =
                    Set::multiply_add(weights, Set::load(x + vector * stride + column), totals[row][vector]);
        }
    }
    for (int row = 0; row < Rows; ++row)
        for (int vector = 0; vector < Count; ++vector) sums[vector][row] = Set::sum(totals[row][vector]);
}

template <class Set, Dtype kDtype, int Count>
void multiply_dense_panel(const DenseMatrix& matrix, std::int64_t panel, const Product& product, const float* x,
                          std::int64_t vector_first) {
    constexpr int rows = 4;
    alignas(64) float sums[Count][kSide] = {};
    const std::int64_t last = smaller(kSide, matrix.rows - panel * kSide);
    x += vector_first * rounded_up(matrix.columns, kSide);
    for (std::int64_t row = 0; row < last;) {
        auto* of_row = reinterpret_cast<float (*)[kSide]>(&sums[0][row]);
        if (last - row >= rows) {
            add_dense_rows<Set, kDtype, rows, Count>(matrix, panel * kSide + row, x, of_row);
            row += rows;
        } else {
            add_dense_rows<Set, kDtype, 1, Count>(matrix, panel * kSide + row, x, of_row);
            row += 1;
        }
    }
    for (int vector = 0; vector < Count; ++vector) finish<Set>(product, panel, vector_first + vector, sums[vector]);
}

template <class Set, Dtype kDtype>
void multiply_dense_panels(const DenseMatrix& matrix, Range panels, const Product& product, const float* x) {
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        std::int64_t vector = 0;
        for (; vector + 2 <= product.count; vector += 2)
            multiply_dense_panel<Set, kDtype, 2>(matrix, panel, product, x, vector);
        if (vector < product.count) multiply_dense_panel<Set, kDtype, 1>(matrix, panel, product, x, vector);
    }
}

template <class Set>
void multiply_dense(const DenseMatrix& matrix, Range panels, const Product& product, const float* x) {
    switch (matrix.dtype) {
        case Dtype::float32:
            return multiply_dense_panels<Set, Dtype::float32>(matrix, panels, product, x);
        case Dtype::bfloat16:
            return multiply_dense_panels<Set, Dtype::bfloat16>(matrix, panels, product, x);
        case Dtype::float16:
            return multiply_dense_panels<Set, Dtype::float16>(matrix, panels, product, x);
    }
}

template <class Set>
void decode_dense(const DenseMatrix& matrix, Range panels, const Dense& dense) {
    const std::int64_t width = dense.columns.last - dense.columns.first;
    const Range rows{larger(panels.first * kSide, dense.rows.first), smaller(panels.last * kSide, dense.rows.last)};
    auto* to = static_cast<std::byte*>(dense.values) + (rows.first - dense.rows.first) * width * size_of(dense.dtype);
    for (std::int64_t row = rows.first; row < rows.last; ++row)
        for (std::int64_t column = 0; column < width; column += kSide) {
            const std::int64_t count = smaller(kSide, width - column);
            const std::int64_t place = row * matrix.columns + dense.columns.first + column;
            store_some<Set>(load_values<Set>(matrix.values, matrix.dtype, place, count), to, dense.dtype, count);
            to += count * size_of(dense.dtype);
        }
}

}  // namespace
}  // namespace tilepress
