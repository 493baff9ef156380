// The bindings of `lossless` (lossless.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "lossless_checks.hpp"
#include "panel_bindings.hpp"
#include "panel_weight.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// The parts of a weight and its shape.
struct LosslessParts {
    Buffer payload;
    Buffer offsets;
    Buffer table;
    std::string dtype;
    std::int64_t rows;
    std::int64_t columns;
};

Lossless checked(const LosslessParts& parts, std::atomic<bool>& is_damaged) {
    require_shape(parts.rows, parts.columns);
    const std::int64_t blocks = blocks_of(parts.columns);
    const std::int64_t count = parts.offsets.second / static_cast<std::int64_t>(sizeof(std::int64_t));
    require(blocks == 0 || panels_of(parts.rows) <= (count - 1) / blocks, "there are too few offsets");
    return {checked_table(parts.dtype, parts.table),
            reinterpret_cast<const std::uint8_t*>(parts.payload.first),
            parts.payload.second,
            reinterpret_cast<const std::int64_t*>(parts.offsets.first),
            parts.rows,
            parts.columns,
            blocks,
            &is_damaged};
}

void decode(const std::string& instruction_set, const LosslessParts& parts, const Bounds& rows, const Bounds& columns,
            const std::string& dtype, const Buffer& values, int threads) {
    std::atomic<bool> is_damaged{false};
    const Lossless weight = checked(parts, is_damaged);
    decode_range(TILEPRESS_KERNELS(lossless, instruction_set), weight, weight.rows, weight.columns, rows, columns,
                 dtype, values, threads);
    require(!is_damaged, "a block is damaged");
}

void multiply(const std::string& instruction_set, const LosslessParts& parts, const Bounds& rows, const Buffer& x,
              const Buffer& bias, const Buffer& y, const std::string& dtype, std::int64_t count, int threads) {
    std::atomic<bool> is_damaged{false};
    const Lossless weight = checked(parts, is_damaged);
    multiply_range(TILEPRESS_KERNELS(lossless, instruction_set), weight, weight.rows, weight.columns, rows, x, bias, y,
                   dtype, count, threads);
    require(!is_damaged, "a block is damaged");
}

std::shared_ptr<Weight> weight_of(const std::string& instruction_set, const LosslessParts& parts) {
    return std::make_shared<PanelWeight<Lossless>>(
        TILEPRESS_KERNELS(lossless, instruction_set), parts.rows, parts.columns, 1,
        [&](std::atomic<bool>& is_damaged) { return checked(parts, is_damaged); });
}

}  // namespace

void bind_lossless(nb::module_& module) {
    nb::class_<LosslessParts>(module, "LosslessParts", "A lossless weight: buffers are (address, bytes).")
        .def(nb::init<Buffer, Buffer, Buffer, std::string, std::int64_t, std::int64_t>(), "payload"_a, "offsets"_a,
             "table"_a, "dtype"_a, "rows"_a, "columns"_a);
    module.def("lossless_decode", &decode, "instruction_set"_a, "parts"_a, "rows"_a, "columns"_a, "dtype"_a, "values"_a,
               "threads"_a, "Decode a range into `values`.");
    module.def("lossless_multiply", &multiply, "instruction_set"_a, "parts"_a, "rows"_a, "x"_a, "bias"_a, "y"_a,
               "dtype"_a, "count"_a, "threads"_a, "Write x @ weight[rows].T + bias to `y`.");
    module.def("lossless_weight", &weight_of, "instruction_set"_a, "parts"_a, "The weight for a decoder.");
}

}  // namespace tilepress
