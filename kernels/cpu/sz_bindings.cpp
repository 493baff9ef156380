// The bindings of `sz` (sz.hpp, sz_encode.hpp, sz_fit.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "panel_bindings.hpp"
#include "sz_encode.hpp"
#include "sz_fit.hpp"

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

Predictor predictor_named(const std::string& name) {
    if (name == "none") return Predictor::none;
    if (name == "lorenzo1") return Predictor::lorenzo1;
    if (name == "lorenzo2") return Predictor::lorenzo2;
    throw std::invalid_argument("there is no predictor of this name");
}

std::int64_t tiles_of(std::int64_t columns) {
    return (columns + kSzColumns - 1) / kSzColumns;
}

std::int64_t panels_of(std::int64_t rows) {
    return (rows + kSide - 1) / kSide;
}

void require_shape(std::int64_t rows, std::int64_t columns) {
    require(0 <= rows && rows <= kMost && 0 <= columns && columns <= kMost, "the weight's shape is out of bounds");
}

SzCode checked_table(const Buffer& table, const std::string& predictor) {
    SzCode code;
    require(holds(table, 1, 1, kSzTableBytes), "the table has a wrong length");
    require(read_sz_table(reinterpret_cast<const std::uint8_t*>(table.first), predictor_named(predictor), code),
            "the table is damaged");
    return code;
}

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

// The tiles of a matrix, panel by panel.
struct Blocks {
    const std::uint8_t* values;
    Dtype dtype;
    std::int64_t rows;
    std::int64_t columns;

    Blocks(const Buffer& buffer, const std::string& name, std::int64_t rows, std::int64_t columns)
        : values(reinterpret_cast<const std::uint8_t*>(buffer.first)),
          dtype(dtype_named(name)),
          rows(rows),
          columns(columns) {
        require_shape(rows, columns);
        require(holds(buffer, rows, columns, size_of(dtype)), "the values do not fit the shape");
    }
    std::int64_t count() const { return panels_of(rows) * tiles_of(columns); }
    SzBlock operator[](std::int64_t number) const {
        const std::int64_t row = number / tiles_of(columns) * kSide, column = number % tiles_of(columns) * kSzColumns;
        return {values + (row * columns + column) * size_of(dtype), dtype, std::min(kSide, rows - row),
                std::min(kSzColumns, columns - column), columns};
    }
};

void fit(const Buffer& values, const std::string& dtype, std::int64_t rows, std::int64_t columns, double bound,
         const std::string& predictor, const Buffer& table) {
    const Blocks blocks(values, dtype, rows, columns);
    const Predictor known = predictor_named(predictor);
    require(bound >= 0, "the bound is not a number from 0 on");
    require(holds(table, 1, 1, kSzTableBytes), "the table has a wrong length");
    const nb::gil_scoped_release released;
    std::vector<SzBlock> all;
    for (std::int64_t number = 0; number < blocks.count(); ++number) all.push_back(blocks[number]);
    write_sz_table(fit_sz_code(all, bound, known), reinterpret_cast<std::uint8_t*>(table.first));
}

// Encode tile after tile; `sizes` is int64 [panels][tiles]. Returns the bytes written.
std::int64_t encode(const Buffer& values, const std::string& dtype, std::int64_t rows, std::int64_t columns,
                    double bound, const std::string& predictor, const Buffer& table, const Buffer& payload,
                    const Buffer& sizes, int threads) {
    const Blocks blocks(values, dtype, rows, columns);
    const SzEncoder encoder(checked_table(table, predictor), bound);
    const std::int64_t count = blocks.count();
    require(holds(sizes, 1, count, sizeof(std::int64_t)), "the sizes do not fit the shape");
    // Each tile has a place for the most that it can take; what they leave free is closed up afterwards.
    const std::int64_t most = most_sz_tile_bytes(blocks.dtype, kSide * std::min(columns, kSzColumns));
    require(payload.second >= 0 && (count == 0 || payload.second / count >= most),
            "the payload has no room for the tiles");
    const nb::gil_scoped_release released;
    auto* to = reinterpret_cast<std::uint8_t*>(payload.first);
    auto* written = reinterpret_cast<std::int64_t*>(sizes.first);
    const std::int64_t step = std::max<std::int64_t>(1, kPieceValues / kSzTileValues);
    parallel(count, step, threads, [&](std::int64_t first, std::int64_t last) {
        SzEncoder::Room room;
        for (std::int64_t number = first; number < last; ++number)
            written[number] = encoder.encode(blocks[number], room, to + number * most);
    });
    std::int64_t end = 0;
    for (std::int64_t number = 0; number < count; end += written[number++])
        std::memmove(to + end, to + number * most, static_cast<std::size_t>(written[number]));
    return end;
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
    module.def("sz_fit", &fit, "values"_a, "dtype"_a, "rows"_a, "columns"_a, "bound"_a, "predictor"_a, "table"_a,
               "Write the table that suits these values.");
    module.def("sz_encode", &encode, "values"_a, "dtype"_a, "rows"_a, "columns"_a, "bound"_a, "predictor"_a, "table"_a,
               "payload"_a, "sizes"_a, "threads"_a, "Encode values into consecutive tiles.");
}

}  // namespace tilepress
