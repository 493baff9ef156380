// The bindings of encoding into fixed-rate tiles (tile_encoders.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <mutex>

#include "bindings.hpp"
#include "panel_bindings.hpp"
#include "tile_encoders.hpp"
#include "tile_parts.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

void encode(const std::string& instruction_set, const Parts& parts, const Buffer& values, std::int64_t rows,
            const std::string& dtype, int threads) {
    const TileEncoderKernels kernels = TILEPRESS_KERNELS(tile_encoder, instruction_set);
    const TileTarget target{checked(parts), reinterpret_cast<std::uint8_t*>(parts.codes.first),
                            reinterpret_cast<std::uint8_t*>(parts.scales.first),
                            reinterpret_cast<std::uint8_t*>(parts.zero_points.first)};
    const DenseSource source{reinterpret_cast<const void*>(values.first), dtype_named(dtype), rows, parts.columns};
    require(0 <= rows && rows <= kMost && (rows + kSide - 1) / kSide == parts.panels,
            "the parts do not have the panels of the matrix");
    require(holds(values, rows, parts.columns, size_of(source.dtype)), "the values are not those of the matrix");
    if (values.second == 0) return;
    const nb::gil_scoped_release released;
    over_panels({0, rows}, target.weight.tiles * kTileValues, threads,
                [&](Range panels) { kernels.encode(target, panels, source); });
}

double largest(const std::string& instruction_set, const Buffer& values, const std::string& dtype, int threads) {
    const TileEncoderKernels kernels = TILEPRESS_KERNELS(tile_encoder, instruction_set);
    const Dtype type = dtype_named(dtype);
    require(values.second >= 0 && values.second % size_of(type) == 0, "a buffer ends within a value");
    const nb::gil_scoped_release released;
    std::mutex mutex;
    float most = 0.0f;
    parallel(values.second / size_of(type), kPieceValues, threads, [&](std::int64_t first, std::int64_t last) {
        const float found = kernels.largest(reinterpret_cast<const void*>(values.first), type, {first, last});
        const std::lock_guard<std::mutex> lock(mutex);
        if (!(found <= most)) most = most == most ? found : most;  // a NaN stays
    });
    return most;
}

}  // namespace

void bind_tile_encoders(nb::module_& module) {
    module.def("tile_encoders_encode", &encode, "instruction_set"_a, "parts"_a, "values"_a, "rows"_a, "dtype"_a,
               "threads"_a, "Encode a matrix of finite values into the parts.");
    module.def("tile_encoders_largest", &largest, "instruction_set"_a, "values"_a, "dtype"_a, "threads"_a,
               "The largest magnitude of all values, or NaN.");
}

}  // namespace tilepress
