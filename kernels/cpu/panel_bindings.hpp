// What the bindings of codecs of variable length (panels.hpp) share: checked calls over all threads.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <string>
#include <vector>

#include "buffers.hpp"
#include "panels.hpp"
#include "parallel.hpp"

namespace tilepress {

// Share the panels of a range of rows among threads, by multiples of `group` panels.
template <class Function>
void over_panels(const Range& rows, std::int64_t values_a_panel, int threads, const Function& function,
                 std::int64_t group = 1) {
    const std::int64_t first = rows.first / kSide;
    const std::int64_t count = (rows.last + kSide - 1) / kSide - first;
    const std::int64_t panels = kPieceValues / std::max<std::int64_t>(values_a_panel, 1);
    const std::int64_t step = std::max<std::int64_t>(1, panels / group) * group;
    parallel(count, step, threads,
             [&](std::int64_t begin, std::int64_t end) { function(Range{first + begin, first + end}); });
}

// The product with rows of a weight that has `weight_rows` x `columns` values.
inline Product checked_product(const Bounds& rows, std::int64_t weight_rows, std::int64_t columns, const Buffer& x,
                               const Buffer& bias, const Buffer& y, const std::string& dtype, std::int64_t count) {
    require(1 <= count && count <= kMostVectors, "x has too many rows, or none");
    const Range range = checked_range(rows, weight_rows);
    const std::int64_t height = range.last - range.first;
    const Product product{reinterpret_cast<const void*>(x.first),
                          reinterpret_cast<const void*>(bias.first),
                          reinterpret_cast<void*>(y.first),
                          dtype_named(dtype),
                          count,
                          columns,
                          range};
    const std::int64_t size = size_of(product.dtype);
    require(holds(x, count, columns, size), "x does not have as many columns as the weight");
    require(holds(y, count, height, size), "the result does not have the size of the range");
    require(bias.second < 0 || holds(bias, 1, height, size), "the bias does not have as many values as the range");
    return product;
}

// Decode a range of a weight of `weight_rows` x `columns` values. `weight` has been checked.
template <class Weight>
void decode_range(const PanelKernels<Weight>& kernels, const Weight& weight, std::int64_t weight_rows,
                  std::int64_t columns, const Bounds& row_range, const Bounds& column_range, const std::string& dtype,
                  const Buffer& values, int threads, std::int64_t group = 1) {
    const Dense dense{reinterpret_cast<void*>(values.first), dtype_named(dtype), checked_range(row_range, weight_rows),
                      checked_range(column_range, columns), values.second > kCachedBytes};
    require(holds(values, dense.rows.last - dense.rows.first, dense.columns.last - dense.columns.first,
                  size_of(dense.dtype)),
            "the result does not have the size of the range");
    if (values.second == 0) return;
    const nanobind::gil_scoped_release released;
    over_panels(
        dense.rows, columns * kSide, threads, [&](Range panels) { kernels.decode(weight, panels, dense); }, group);
}

// Multiply rows of a weight of `weight_rows` x `columns` values. `weight` has been checked.
template <class Weight>
void multiply_range(const PanelKernels<Weight>& kernels, const Weight& weight, std::int64_t weight_rows,
                    std::int64_t columns, const Bounds& rows, const Buffer& x, const Buffer& bias, const Buffer& y,
                    const std::string& dtype, std::int64_t count, int threads, std::int64_t group = 1) {
    const Product product = checked_product(rows, weight_rows, columns, x, bias, y, dtype, count);
    if (y.second == 0) return;
    const nanobind::gil_scoped_release released;
    std::vector<float> prepared(static_cast<std::size_t>(count * ((columns + kSide - 1) / kSide * kSide)));
    kernels.prepare(product, prepared.data());
    over_panels(
        product.rows, columns * kSide, threads,
        [&](Range panels) { kernels.multiply(weight, panels, product, prepared.data()); }, group);
}

}  // namespace tilepress
