// The bindings of the encoder of `sz` (sz_encode.hpp, sz_fit.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "encoded_pieces.hpp"
#include "sz_checks.hpp"
#include "sz_encode.hpp"
#include "sz_fit.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// Tiles that a thread encodes in the same room.
constexpr std::int64_t kEncodedTiles = 8;

SzMatrix checked_matrix(const Buffer& values, const std::string& dtype, std::int64_t rows, std::int64_t columns) {
    const SzMatrix matrix{reinterpret_cast<const std::uint8_t*>(values.first), dtype_named(dtype), rows, columns};
    require_shape(rows, columns);
    require(holds(values, rows, columns, size_of(matrix.dtype)), "the values do not fit the shape");
    return matrix;
}

void fit(const Buffer& values, const std::string& dtype, std::int64_t rows, std::int64_t columns, double bound,
         const std::string& predictor, const Buffer& table) {
    const SzMatrix matrix = checked_matrix(values, dtype, rows, columns);
    const Predictor known = predictor_named(predictor);
    require(bound >= 0, "the bound is not a number from 0 on");
    require(holds(table, 1, 1, kSzTableBytes), "the table has a wrong length");
    const nb::gil_scoped_release released;
    std::vector<SzBlock> all;
    for (std::int64_t number = 0; number < matrix.tiles(); ++number) all.push_back(matrix.tile(number));
    write_sz_table(fit_sz_code(all, bound, known), reinterpret_cast<std::uint8_t*>(table.first));
}

// Encode tile after tile; `sizes` is int64 [panels][tiles]. Returns the bytes written.
std::int64_t encode(const std::string& instruction_set, const Buffer& values, const std::string& dtype,
                    std::int64_t rows, std::int64_t columns, double bound, const std::string& predictor,
                    const Buffer& table, const Buffer& payload, const Buffer& sizes, int threads) {
    const SzEncodeKernels kernels = TILEPRESS_KERNELS(sz_encode, instruction_set);
    const SzMatrix matrix = checked_matrix(values, dtype, rows, columns);
    const SzCode code = checked_table(table, predictor);
    require(bound >= 0, "the bound is not a number from 0 on");
    const std::int64_t count = matrix.tiles();
    require(holds(sizes, 1, count, sizeof(std::int64_t)), "the sizes do not fit the shape");
    const std::int64_t most = most_sz_tile_bytes(matrix.dtype, kSide * std::min(columns, kSzColumns));
    require(payload.second >= 0 && (count == 0 || payload.second / count >= most),
            "the payload has no room for the tiles");
    const nb::gil_scoped_release released;
    auto* to = reinterpret_cast<std::uint8_t*>(payload.first);
    auto* written = reinterpret_cast<std::int64_t*>(sizes.first);
    return encode_pieces(count, kEncodedTiles, most, threads, to, written,
                         [&](std::int64_t first, std::int64_t last, std::uint8_t* place) {
                             kernels.encode(code, bound, matrix, {first, last}, place, written);
                         });
}

}  // namespace

void bind_sz_encode(nb::module_& module) {
    module.def("sz_fit", &fit, "values"_a, "dtype"_a, "rows"_a, "columns"_a, "bound"_a, "predictor"_a, "table"_a,
               "Write the table that suits these values.");
    module.def("sz_encode", &encode, "instruction_set"_a, "values"_a, "dtype"_a, "rows"_a, "columns"_a, "bound"_a,
               "predictor"_a, "table"_a, "payload"_a, "sizes"_a, "threads"_a, "Encode values into consecutive tiles.");
}

}  // namespace tilepress
