// The bindings of fixed-rate tiles (tiles.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <new>
#include <string>

#include "bindings.hpp"
#include "buffers.hpp"
#include "panel_bindings.hpp"
#include "tile_parts.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

void decode(const std::string& instruction_set, const Parts& parts, const Bounds& rows, const Bounds& columns,
            const std::string& dtype, const Buffer& values, int threads) {
    const TileKernels kernels = TILEPRESS_KERNELS(tile, instruction_set);
    const Tiles weight = checked(parts);
    const Dense dense{reinterpret_cast<void*>(values.first), dtype_named(dtype),
                      checked_range(rows, parts.panels * kSide), checked_range(columns, parts.columns),
                      values.second > kCachedBytes};
    const std::int64_t width = dense.columns.last - dense.columns.first;
    require(holds(values, dense.rows.last - dense.rows.first, width, size_of(dense.dtype)),
            "the result does not have the size of the range");
    if (values.second == 0) return;
    const nb::gil_scoped_release released;
    over_panels(dense.rows, width * kSide, threads, [&](Range panels) { kernels.decode(weight, panels, dense); });
}

void multiply(const std::string& instruction_set, const Parts& parts, const Bounds& rows, const Buffer& x,
              const Buffer& bias, const Buffer& y, const std::string& dtype, std::int64_t count, int threads) {
    const TileKernels kernels = TILEPRESS_KERNELS(tile, instruction_set);
    const Tiles weight = checked(parts);
    const Product product = checked_product(rows, parts.panels * kSide, parts.columns, x, bias, y, dtype, count);
    if (y.second == 0) return;
    const nb::gil_scoped_release released;
    constexpr std::align_val_t alignment{64};
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(kernels.prepared_bytes(weight, product), 64));
    auto* prepared = static_cast<std::byte*>(::operator new(bytes, alignment));
    kernels.prepare(weight, product, prepared);
    over_panels(product.rows, weight.tiles * kTileValues, threads,
                [&](Range panels) { kernels.multiply(weight, panels, product, prepared); });
    ::operator delete(prepared, alignment);
}

}  // namespace

void bind_tiles(nb::module_& module) {
    module.attr("MOST_VECTORS") = kMostVectors;
    nb::class_<Parts>(module, "Parts", "A weight in fixed-rate tiles: buffers are (address, bytes).")
        .def(nb::init<Buffer, Buffer, Buffer, Buffer, std::string, int, std::int64_t, std::string, std::int64_t,
                      std::int64_t>(),
             "codes"_a, "scales"_a, "zero_points"_a, "global_scale"_a, "code"_a, "bits"_a, "group"_a, "scale_format"_a,
             "panels"_a, "columns"_a);
    module.def("tiles_decode", &decode, "instruction_set"_a, "parts"_a, "rows"_a, "columns"_a, "dtype"_a, "values"_a,
               "threads"_a, "Decode a range into `values`.");
    module.def("tiles_multiply", &multiply, "instruction_set"_a, "parts"_a, "rows"_a, "x"_a, "bias"_a, "y"_a, "dtype"_a,
               "count"_a, "threads"_a, "Write x @ weight[rows].T + bias to `y`.");
}

}  // namespace tilepress
