// The bindings of the encoder of `lossless` (lossless_encode.hpp, lossless_table.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "encoded_pieces.hpp"
#include "lossless_checks.hpp"
#include "lossless_encode.hpp"
#include "parallel.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// Blocks that a thread encodes in the same room.
constexpr std::int64_t kEncodedBlocks = 16;

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
std::int64_t encode(const std::string& instruction_set, const Buffer& values, const std::string& dtype,
                    std::int64_t rows, std::int64_t columns, const Buffer& table, const Buffer& payload,
                    const Buffer& sizes, int threads) {
    const LosslessEncodeKernels kernels = TILEPRESS_KERNELS(lossless_encode, instruction_set);
    const PlaneCodes codes = checked_table(dtype, table);
    require_shape(rows, columns);
    const std::int64_t size = size_of(codes.dtype), panels = panels_of(rows), blocks = blocks_of(columns);
    require(holds(values, rows, columns, size), "the values do not fit the shape");
    require(holds(sizes, panels, blocks, sizeof(std::int64_t)), "the sizes do not fit the shape");
    const std::int64_t most = most_block_bytes(codes.dtype, kSide * std::min(columns, kBlockColumns));
    require(payload.second >= panels * blocks * most, "the payload has no room for the blocks");
    const nb::gil_scoped_release released;
    const LosslessMatrix matrix{codes, reinterpret_cast<const void*>(values.first), rows, columns};
    auto* to = reinterpret_cast<std::uint8_t*>(payload.first);
    auto* written = reinterpret_cast<std::int64_t*>(sizes.first);
    return encode_pieces(panels * blocks, kEncodedBlocks, most, threads, to, written,
                         [&](std::int64_t first, std::int64_t last, std::uint8_t* place) {
                             kernels.encode(matrix, {first, last}, place, written);
                         });
}

}  // namespace

void bind_lossless_encode(nb::module_& module) {
    module.def("lossless_count", &count, "values"_a, "dtype"_a, "counts"_a, "threads"_a,
               "Add how often each plane has each byte to `counts`.");
    module.def("lossless_table", &table, "counts"_a, "dtype"_a, "table"_a, "Write the table for these counts.");
    module.def("lossless_encode", &encode, "instruction_set"_a, "values"_a, "dtype"_a, "rows"_a, "columns"_a, "table"_a,
               "payload"_a, "sizes"_a, "threads"_a, "Encode values into consecutive blocks.");
}

}  // namespace tilepress
