// The bindings of fixed-rate tiles (tiles.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <new>
#include <string>

#include "bindings.hpp"
#include "buffers.hpp"
#include "panel_bindings.hpp"
#include "tile_parts.hpp"
#include "weight.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

constexpr std::align_val_t kAlignment{64};

// x as `prepare` leaves it.
struct TileInput final : Weight::Input {
    std::byte* bytes;

    explicit TileInput(std::int64_t count)
        : bytes(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(count), kAlignment))) {}
    ~TileInput() override { ::operator delete(bytes, kAlignment); }
    TileInput(const TileInput&) = delete;
    TileInput& operator=(const TileInput&) = delete;
};

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
    const TileInput input(std::max<std::int64_t>(kernels.prepared_bytes(weight, product), 64));
    kernels.prepare(weight, product, input.bytes);
    over_panels(product.rows, weight.tiles * kTileValues, threads,
                [&](Range panels) { kernels.multiply(weight, panels, product, input.bytes); });
}

class TileWeight final : public Weight {
public:
    TileWeight(const TileKernels& kernels, const Tiles& tiles, std::int64_t rows, std::int64_t columns)
        : Weight(rows, columns), kernels_(kernels), tiles_(tiles) {}

    bool reads_input_of(const Weight& other) const override {
        const auto* that = dynamic_cast<const TileWeight*>(&other);
        return that != nullptr && that->columns() == columns() && that->tiles_.code == tiles_.code &&
               that->tiles_.bits == tiles_.bits && that->tiles_.group_tiles == tiles_.group_tiles;
    }
    std::unique_ptr<Input> prepare(const Product& product) const override {
        auto input = std::make_unique<TileInput>(std::max<std::int64_t>(kernels_.prepared_bytes(tiles_, product), 64));
        kernels_.prepare(tiles_, product, input->bytes);
        return input;
    }
    void multiply(const Product& product, Range panels, const Input& input, float*) const override {
        kernels_.multiply(tiles_, panels, product, static_cast<const TileInput&>(input).bytes);
    }
    void decode_row(std::int64_t row, Dtype dtype, void* values) const override {
        const std::int64_t panel = row / kSide;
        kernels_.decode(tiles_, {panel, panel + 1}, Dense{values, dtype, {row, row + 1}, {0, columns()}, false});
    }

private:
    TileKernels kernels_;
    Tiles tiles_;
};

std::shared_ptr<Weight> weight_of(const std::string& instruction_set, const Parts& parts, std::int64_t rows) {
    const Tiles tiles = checked(parts);
    require(0 <= rows && rows <= parts.panels * kSide, "the weight has more rows than its panels");
    return std::make_shared<TileWeight>(TILEPRESS_KERNELS(tile, instruction_set), tiles, rows, parts.columns);
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
    module.def("tiles_weight", &weight_of, "instruction_set"_a, "parts"_a, "rows"_a, "The weight for a decoder.");
}

}  // namespace tilepress
