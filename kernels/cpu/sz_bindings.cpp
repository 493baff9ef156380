// The bindings of `sz` (sz.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "panel_bindings.hpp"
#include "panel_weight.hpp"
#include "sz_checks.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// The parts of a weight and its shape.
struct SzParts {
    Buffer payload;
    Buffer offsets;
    Buffer table;
    std::string predictor;
    std::string dtype;
    std::int64_t rows;
    std::int64_t columns;
};

Sz checked(const SzParts& parts, std::atomic<bool>& is_damaged) {
    require_shape(parts.rows, parts.columns);
    const std::int64_t tiles = tiles_of(parts.columns);
    const std::int64_t count = parts.offsets.second / static_cast<std::int64_t>(sizeof(std::int64_t));
    require(tiles == 0 || panels_of(parts.rows) <= (count - 1) / tiles, "there are too few offsets");
    return {checked_table(parts.table, parts.predictor),
            dtype_named(parts.dtype),
            reinterpret_cast<const std::uint8_t*>(parts.payload.first),
            parts.payload.second,
            reinterpret_cast<const std::int64_t*>(parts.offsets.first),
            parts.rows,
            parts.columns,
            tiles,
            &is_damaged};
}

void decode(const std::string& instruction_set, const SzParts& parts, const Bounds& rows, const Bounds& columns,
            const std::string& dtype, const Buffer& values, int threads) {
    std::atomic<bool> is_damaged{false};
    const Sz weight = checked(parts, is_damaged);
    decode_range(TILEPRESS_KERNELS(sz, instruction_set), weight, weight.rows, weight.columns, rows, columns, dtype,
                 values, threads);
    require(!is_damaged, "a tile is damaged");
}

void multiply(const std::string& instruction_set, const SzParts& parts, const Bounds& rows, const Buffer& x,
              const Buffer& bias, const Buffer& y, const std::string& dtype, std::int64_t count, int threads) {
    std::atomic<bool> is_damaged{false};
    const Sz weight = checked(parts, is_damaged);
    multiply_range(TILEPRESS_KERNELS(sz, instruction_set), weight, weight.rows, weight.columns, rows, x, bias, y, dtype,
                   count, threads);
    require(!is_damaged, "a tile is damaged");
}

std::shared_ptr<Weight> weight_of(const std::string& instruction_set, const SzParts& parts) {
    return std::make_shared<PanelWeight<Sz>>(TILEPRESS_KERNELS(sz, instruction_set), parts.rows, parts.columns, 1,
                                             [&](std::atomic<bool>& is_damaged) { return checked(parts, is_damaged); });
}

}  // namespace

void bind_sz(nb::module_& module) {
    nb::class_<SzParts>(module, "SzParts", "An `sz` weight: buffers are (address, bytes).")
        .def(nb::init<Buffer, Buffer, Buffer, std::string, std::string, std::int64_t, std::int64_t>(), "payload"_a,
             "offsets"_a, "table"_a, "predictor"_a, "dtype"_a, "rows"_a, "columns"_a);
    module.def("sz_decode", &decode, "instruction_set"_a, "parts"_a, "rows"_a, "columns"_a, "dtype"_a, "values"_a,
               "threads"_a, "Decode a range into `values`.");
    module.def("sz_multiply", &multiply, "instruction_set"_a, "parts"_a, "rows"_a, "x"_a, "bias"_a, "y"_a, "dtype"_a,
               "count"_a, "threads"_a, "Write x @ weight[rows].T + bias to `y`.");
    module.def("sz_weight", &weight_of, "instruction_set"_a, "parts"_a, "The weight for a decoder.");
}

}  // namespace tilepress
