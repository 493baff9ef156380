// Python's way to the kernels for trellis codes: checks every length, then calls them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "bindings.hpp"
#include "buffers.hpp"
#include "parallel.hpp"
#include "product.hpp"
#include "trellis.hpp"
#include "trellis_input.hpp"
#include "trellis_weight.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// Values of the lines that are copied, rotated and copied back together, when rows are rotated: so many that a row's
// part of them is worth fetching, and not more than the last cache holds.
constexpr std::int64_t kStripValues = std::int64_t{1} << 17;
constexpr std::int64_t kMostStripLines = 8;

// Lines `first` to `last` of a side that runs down the rows of a matrix of `columns` columns.
void rotate_strip(const TrellisKernels& kernels, const RotatedSide& side, bool back, float* values,
                  std::int64_t columns, std::int64_t first, std::int64_t last) {
    const std::unique_ptr<float[]> strip(new float[static_cast<std::size_t>((last - first) * side.length * kSide)]);
    const auto line_at = [&](std::int64_t line, std::int64_t row) {
        return strip.get() + ((line - first) * side.length + row) * kSide;
    };
    constexpr std::size_t bytes = kSide * sizeof(float);
    for (std::int64_t row = 0; row < side.length; ++row)
        for (std::int64_t line = first; line < last; ++line)
            std::memcpy(line_at(line, row), values + row * columns + line * kSide, bytes);
    for (std::int64_t line = first; line < last; ++line) kernels.rotate_lines(side, back, line_at(line, 0));
    for (std::int64_t row = 0; row < side.length; ++row)
        for (std::int64_t line = first; line < last; ++line)
            std::memcpy(values + row * columns + line * kSide, line_at(line, row), bytes);
}

TrellisWeight checked(const Buffer& codes, const Buffer& scales, int bits, int window, std::int64_t panels,
                      std::int64_t tiles) {
    require(1 <= bits && bits <= 8 && 12 <= window && window <= 16, "there is no trellis of these parameters");
    require(0 <= panels && panels <= kMost && 0 <= tiles && tiles <= kMost, "the weight's shape is out of bounds");
    require(holds(codes, panels, tiles, 32 * bits), "the codes do not fit the weight's shape");
    require(holds(scales, panels, kTrellisSide, 2), "the scales do not fit the weight's shape");
    return {reinterpret_cast<const std::uint8_t*>(codes.first), reinterpret_cast<const std::uint16_t*>(scales.first),
            bits, window, tiles};
}

// Signs, the table of the Hartley matrix, and the sizes of a block's two factors.
using Side = std::tuple<Buffer, Buffer, std::int64_t, std::int64_t>;

RotatedSide checked_side(const Side& parts, std::int64_t length) {
    const auto& [signs, table, odd, power] = parts;
    require(1 <= odd && odd <= 127 && 1 <= power && power <= 4096 && (power & (power - 1)) == 0 && power % kSide == 0 &&
                length % (odd * power) == 0,
            "the side is not made of such blocks");
    require(signs.second == length / 8 && holds(table, odd, odd, 4), "the signs or the table do not fit the side");
    return {reinterpret_cast<const std::uint8_t*>(signs.first),
            reinterpret_cast<const float*>(table.first),
            static_cast<float>(1.0 / std::sqrt(static_cast<double>(power))),
            odd,
            power,
            length};
}

std::int64_t panels_at_once(std::int64_t tiles) {
    return std::max<std::int64_t>(1, kPieceValues / std::max<std::int64_t>(tiles * kTrellisSteps, 1));
}

void decode(const std::string& instruction_set, const Buffer& codes, const Buffer& scales, int bits, int window,
            std::int64_t panels, std::int64_t tiles, const Bounds& range, const std::string& dtype,
            const Buffer& values, int threads) {
    const TrellisKernels kernels = TILEPRESS_KERNELS(trellis, instruction_set);
    const TrellisWeight weight = checked(codes, scales, bits, window, panels, tiles);
    const Range wanted = checked_range(range, panels);
    const std::int64_t count = wanted.last - wanted.first;
    const Dtype type = dtype_named(dtype);
    require(holds(values, count, tiles, kTrellisSteps * size_of(type)), "the result does not have the range's size");
    if (values.second == 0) return;
    const nb::gil_scoped_release released;
    parallel(count, panels_at_once(tiles), threads, [&](std::int64_t first, std::int64_t last) {
        kernels.decode(weight, {wanted.first + first, wanted.first + last}, wanted.first, type,
                       reinterpret_cast<void*>(values.first));
    });
}

void multiply(const std::string& instruction_set, const Buffer& codes, const Buffer& scales, int bits, int window,
              std::int64_t panels, std::int64_t tiles, const Bounds& range, const Buffer& x, std::int64_t count,
              bool is_float32, const Buffer& y, int threads) {
    const TrellisKernels kernels = TILEPRESS_KERNELS(trellis, instruction_set);
    const TrellisWeight weight = checked(codes, scales, bits, window, panels, tiles);
    const Range wanted = checked_range(range, panels);
    require(1 <= count && count <= kMostVectors, "x has too many rows, or none");
    const std::int64_t height = (wanted.last - wanted.first) * kTrellisSide;
    require(holds(x, count, tiles, kTrellisSide * 4), "x does not have as many columns as the weight");
    require(holds(y, count, height, 4), "the result does not have the size of the range");
    if (y.second == 0) return;
    const nb::gil_scoped_release released;
    const TrellisPlanes planes(reinterpret_cast<const float*>(x.first), count, tiles * kTrellisSide, is_float32);
    const TrellisInput input = planes.input();
    parallel(wanted.last - wanted.first, panels_at_once(tiles), threads, [&](std::int64_t first, std::int64_t last) {
        kernels.multiply(weight, {wanted.first + first, wanted.first + last}, wanted.first, input, height,
                         reinterpret_cast<float*>(y.first));
    });
}

void rotate(const std::string& instruction_set, const Buffer& values, std::int64_t rows, std::int64_t columns,
            bool over_rows, const Buffer& signs, const Buffer& table, std::int64_t odd, std::int64_t power, bool back,
            int threads) {
    const TrellisKernels kernels = TILEPRESS_KERNELS(trellis, instruction_set);
    require(0 <= rows && rows <= kMost && 0 <= columns && columns <= kMost, "the values' shape is out of bounds");
    require(columns % kSide == 0 && holds(values, rows, columns, 4), "the values do not fit their shape");
    const std::int64_t length = over_rows ? rows : columns;
    const RotatedSide side = checked_side({signs, table, odd, power}, length);
    if (values.second == 0) return;
    auto* data = reinterpret_cast<float*>(values.first);
    const nb::gil_scoped_release released;
    if (over_rows) {
        const std::int64_t lines = std::min(std::max<std::int64_t>(1, kStripValues / kSide / length), kMostStripLines);
        parallel(columns / kSide, lines, threads, [&](std::int64_t first, std::int64_t last) {
            rotate_strip(kernels, side, back, data, columns, first, last);
        });
    } else {
        const std::int64_t step = std::max<std::int64_t>(1, kPieceValues / columns);
        parallel(rows, step, threads, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t row = first; row < last; ++row) kernels.rotate_row(side, back, data + row * columns);
        });
    }
}

std::shared_ptr<Weight> weight_of(const std::string& instruction_set, const Buffer& codes, const Buffer& scales,
                                  int bits, int window, std::int64_t panels, std::int64_t tiles, std::int64_t rows,
                                  std::int64_t columns, const std::optional<Side>& columns_side,
                                  const std::optional<Side>& rows_side) {
    const TrellisWeight weight = checked(codes, scales, bits, window, panels, tiles);
    require(panels == (rows + kSide - 1) / kSide && tiles == (columns + kSide - 1) / kSide,
            "the codes do not fit the weight's shape");
    std::optional<RotatedSide> sides[2];
    if (columns_side) sides[0] = checked_side(*columns_side, tiles * kSide);
    if (rows_side) sides[1] = checked_side(*rows_side, panels * kSide);
    return trellis_weight(TILEPRESS_KERNELS(trellis, instruction_set), weight, sides[0], sides[1], rows, columns);
}

}  // namespace

void bind_trellis(nb::module_& module) {
    module.def("trellis_decode", &decode, "instruction_set"_a, "codes"_a, "scales"_a, "bits"_a, "window"_a, "panels"_a,
               "tiles"_a, "range"_a, "dtype"_a, "values"_a, "threads"_a,
               "Decode a range of panels in the rotated basis into `values`.");
    module.def("trellis_multiply", &multiply, "instruction_set"_a, "codes"_a, "scales"_a, "bits"_a, "window"_a,
               "panels"_a, "tiles"_a, "range"_a, "x"_a, "count"_a, "is_float32"_a, "y"_a, "threads"_a,
               "Write x @ weight[range of panels].T to `y`, all float32 in the rotated basis; x is taken as 16 bits of "
               "each 128 columns, or as float32.");
    module.def("trellis_rotate", &rotate, "instruction_set"_a, "values"_a, "rows"_a, "columns"_a, "over_rows"_a,
               "signs"_a, "table"_a, "odd"_a, "power"_a, "back"_a, "threads"_a,
               "Rotate a side of a float32 matrix, or rotate it back, in place.");
    module.def("trellis_weight", &weight_of, "instruction_set"_a, "codes"_a, "scales"_a, "bits"_a, "window"_a,
               "panels"_a, "tiles"_a, "rows"_a, "columns"_a, "columns_side"_a.none(), "rows_side"_a.none(),
               "The weight for a decoder; a side is (signs, table, odd, power), or none.");
}

}  // namespace tilepress
