// The bindings of `lossless` (lossless.hpp, lossless_encode.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "lossless_encode.hpp"
#include "panel_bindings.hpp"

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

// Blocks that a thread encodes in the same room.
constexpr std::int64_t kEncodedBlocks = 16;

std::int64_t blocks_of(std::int64_t columns) {
    return (columns + kBlockColumns - 1) / kBlockColumns;
}

std::int64_t panels_of(std::int64_t rows) {
    return (rows + kSide - 1) / kSide;
}

void require_shape(std::int64_t rows, std::int64_t columns) {
    require(0 <= rows && rows <= kMost && 0 <= columns && columns <= kMost, "the weight's shape is out of bounds");
}

PlaneCodes checked_table(const std::string& dtype, const Buffer& table) {
    PlaneCodes codes;
    const Dtype known = dtype_named(dtype);
    require(holds(table, 1, 1, kTableHead + cut_of(known).count * kTablePlane), "the table does not fit the dtype");
    require(read_table(known, reinterpret_cast<const std::uint8_t*>(table.first), codes), "the table is damaged");
    return codes;
}

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

// Add up how often each plane of `values` has each byte: `counts` is int64 [planes][256].
void count(const Buffer& values, const std::string& dtype, const Buffer& counts, int threads) {
    const Dtype known = dtype_named(dtype);
    const std::int64_t size = size_of(known), length = values.second / size;
    const int planes = cut_of(known).count;
    require(values.second >= 0 && values.second % size == 0, "the values are not a whole number of them");
    require(holds(counts, planes, 256, sizeof(std::int64_t)), "the counts do not fit the dtype");
    const nb::gil_scoped_release released;
    const std::int64_t pieces = (length + kPieceValues - 1) / kPieceValues;
    std::vector<std::int64_t> each(static_cast<std::size_t>(pieces * planes * 256));
    parallel(pieces, 1, threads, [&](std::int64_t piece, std::int64_t) {
        const std::int64_t first = piece * kPieceValues;
        count_planes(known, reinterpret_cast<const std::uint8_t*>(values.first) + first * size,
                     std::min(kPieceValues, length - first), each.data() + piece * planes * 256);
    });
    auto* sums = reinterpret_cast<std::int64_t*>(counts.first);
    for (std::size_t i = 0; i < each.size(); ++i) sums[i % static_cast<std::size_t>(planes * 256)] += each[i];
}

void table(const Buffer& counts, const std::string& dtype, const Buffer& table) {
    const Dtype known = dtype_named(dtype);
    const int planes = cut_of(known).count;
    require(holds(counts, planes, 256, sizeof(std::int64_t)), "the counts do not fit the dtype");
    require(holds(table, 1, 1, kTableHead + planes * kTablePlane), "the table does not fit the dtype");
    write_table(known, reinterpret_cast<const std::int64_t*>(counts.first),
                reinterpret_cast<std::uint8_t*>(table.first));
}

// Encode rows x columns values, one block after the other; `sizes` is int64 [panels][blocks]. Returns the bytes
// written.
std::int64_t encode(const Buffer& values, const std::string& dtype, std::int64_t rows, std::int64_t columns,
                    const Buffer& table, const Buffer& payload, const Buffer& sizes, int threads) {
    const PlaneCodes codes = checked_table(dtype, table);
    require_shape(rows, columns);
    const std::int64_t size = size_of(codes.dtype), panels = panels_of(rows), blocks = blocks_of(columns);
    require(holds(values, rows, columns, size), "the values do not fit the shape");
    require(holds(sizes, panels, blocks, sizeof(std::int64_t)), "the sizes do not fit the shape");
    // Each block has a place for the most that it can take; what they leave free is closed up afterwards.
    const std::int64_t most = most_block_bytes(codes.dtype, kSide * std::min(columns, kBlockColumns));
    require(payload.second >= panels * blocks * most, "the payload has no room for the blocks");
    const nb::gil_scoped_release released;
    const LosslessEncoder encoder(codes);
    auto* to = reinterpret_cast<std::uint8_t*>(payload.first);
    auto* written = reinterpret_cast<std::int64_t*>(sizes.first);
    parallel(panels * blocks, kEncodedBlocks, threads, [&](std::int64_t first, std::int64_t last) {
        const auto room = LosslessEncoder::room();
        for (std::int64_t number = first; number < last; ++number) {
            const std::int64_t row = number / blocks * kSide, column = number % blocks * kBlockColumns;
            written[number] =
                encoder.encode(reinterpret_cast<const std::uint8_t*>(values.first) + (row * columns + column) * size,
                               std::min(kSide, rows - row), std::min(kBlockColumns, columns - column), columns, *room,
                               to + number * most);
        }
    });
    std::int64_t end = 0;
    for (std::int64_t number = 0; number < panels * blocks; end += written[number++])
        std::memmove(to + end, to + number * most, static_cast<std::size_t>(written[number]));
    return end;
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
    module.def("lossless_count", &count, "values"_a, "dtype"_a, "counts"_a, "threads"_a,
               "Add how often each plane has each byte to `counts`.");
    module.def("lossless_table", &table, "counts"_a, "dtype"_a, "table"_a, "Write the table for these counts.");
    module.def("lossless_encode", &encode, "values"_a, "dtype"_a, "rows"_a, "columns"_a, "table"_a, "payload"_a,
               "sizes"_a, "threads"_a, "Encode values into consecutive blocks.");
}

}  // namespace tilepress
