// The bindings of zfp streams (zfp.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "buffers.hpp"
#include "panel_bindings.hpp"
#include "panel_weight.hpp"
#include "zfp.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// zfp's own limits.
constexpr std::int64_t kMostBits = 16658;
constexpr int kMostPrecision = 64;
constexpr int kLeastExponent = -1074;
// Bits a value; zfp fills up what a block does not need.
constexpr double kMostRate = 256;
// Panels whose blocks are read in turns.
constexpr std::int64_t kGroupPanels = 4;

// The mode and its only parameter; "reversible" has none.
struct Mode {
    std::string name;
    double value;
};

ZfpMode mode_of(const Mode& mode, int dims, bool is_double) {
    if (mode.name == "reversible") return {1, kMostBits, kMostPrecision, kLeastExponent - 1, true};
    if (mode.name == "rate") {
        require(mode.value > 0 && mode.value <= kMostRate, "a rate is not within 0..256 bits a value");
        const auto bits = static_cast<std::int64_t>(std::floor((1 << (2 * dims)) * mode.value + 0.5));
        require(bits >= (is_double ? 12 : 9), "a rate leaves no room for the exponent of a block");
        return {bits, bits, kMostPrecision, kLeastExponent, false};
    }
    if (mode.name == "precision") {
        require(mode.value >= 1 && mode.value <= kMostPrecision, "a precision is not within 1..64 bit planes");
        return {1, kMostBits, static_cast<int>(mode.value), kLeastExponent, false};
    }
    require(mode.name == "tolerance", "zfp has no mode of this name");
    require(std::isfinite(mode.value) && mode.value >= 0, "a tolerance is not a number from 0 up");
    int exponent = kLeastExponent + 1;
    if (mode.value > 0) std::frexp(mode.value, &exponent);
    return {1, kMostBits, kMostPrecision, exponent - 1, false};
}

// Every coefficient of every plane takes a bit at most, or two where it is the first to be significant, and every plane
// one more.
std::int64_t most_block_bits(const ZfpMode& mode, int dims, bool is_double) {
    if (mode.has_fixed_rate()) return mode.most_bits;
    const std::int64_t values = std::int64_t{1} << (2 * dims);
    const std::int64_t bits = is_double ? 64 : 32;
    return 2 + (is_double ? 11 + 6 : 8 + 5) + values * bits + values + bits;
}

std::int64_t most_bytes(const ZfpMode& mode, const ZfpShape& shape, bool is_double) {
    return (shape.blocks() * most_block_bits(mode, shape.dims, is_double) + 63) / 64 * 8;
}

// `sizes` as arrays have them: the last dimension is the fastest.
ZfpShape shape_of(const std::vector<std::int64_t>& sizes) {
    require(1 <= sizes.size() && sizes.size() <= 3, "an array of zfp has one to three dimensions");
    ZfpShape shape{static_cast<int>(sizes.size()), {1, 1, 1}};
    std::int64_t count = 1;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        const std::int64_t size = sizes[sizes.size() - 1 - i];
        require(0 <= size && size <= kMost && (size == 0 || count <= kMost / size), "the shape is out of bounds");
        count *= size;
        shape.sizes[i] = size;
    }
    return shape;
}

std::int64_t values_of(const ZfpShape& shape) {
    return shape.sizes[0] * shape.sizes[1] * shape.sizes[2];
}

bool is_float64(const std::string& dtype) {
    require(dtype == "float32" || dtype == "float64", "zfp codes float32 and float64");
    return dtype == "float64";
}

std::int64_t stream_bytes(const Mode& mode, const std::vector<std::int64_t>& sizes, const std::string& dtype) {
    const ZfpShape shape = shape_of(sizes);
    const bool is_double = is_float64(dtype);
    return most_bytes(mode_of(mode, shape.dims, is_double), shape, is_double);
}

std::int64_t encode_stream(const std::string& instruction_set, const Mode& mode, const std::vector<std::int64_t>& sizes,
                           const std::string& dtype, const Buffer& values, const Buffer& stream) {
    const ZfpKernels kernels = TILEPRESS_KERNELS(zfp, instruction_set);
    const ZfpShape shape = shape_of(sizes);
    const bool is_double = is_float64(dtype);
    const ZfpMode zfp_mode = mode_of(mode, shape.dims, is_double);
    require(holds(values, values_of(shape), 1, is_double ? 8 : 4), "the values do not fit the shape");
    require(stream.second >= most_bytes(zfp_mode, shape, is_double), "there is too little room for the stream");
    if (values.second == 0) return 0;
    const nb::gil_scoped_release released;
    auto* to = reinterpret_cast<std::uint8_t*>(stream.first);
    if (is_double) return kernels.encode_double(reinterpret_cast<const double*>(values.first), shape, zfp_mode, to);
    return kernels.encode_float(reinterpret_cast<const float*>(values.first), shape, zfp_mode, to);
}

void decode_stream(const std::string& instruction_set, const Mode& mode, const std::vector<std::int64_t>& sizes,
                   const std::string& dtype, const Buffer& stream, const Buffer& values) {
    const ZfpKernels kernels = TILEPRESS_KERNELS(zfp, instruction_set);
    const ZfpShape shape = shape_of(sizes);
    const bool is_double = is_float64(dtype);
    const ZfpMode zfp_mode = mode_of(mode, shape.dims, is_double);
    require(holds(values, values_of(shape), 1, is_double ? 8 : 4), "the values do not fit the shape");
    require(stream.second >= 0, "there is no stream");
    if (values.second == 0) return;
    const nb::gil_scoped_release released;
    const ZfpStream from{reinterpret_cast<const std::uint8_t*>(stream.first), stream.second};
    if (is_double) return kernels.decode_double(from, shape, zfp_mode, reinterpret_cast<double*>(values.first));
    kernels.decode_float(from, shape, zfp_mode, reinterpret_cast<float*>(values.first));
}

// A weight of the codec: its parts, checked against each other.
struct ZfpParts {
    Buffer payload;
    Buffer offsets;
    Mode mode;
    std::int64_t rows;
    std::int64_t columns;
};

// Only the offsets of the panels of `rows` are looked at.
ZfpPanels checked(const ZfpParts& parts, const Bounds& rows) {
    require(0 <= parts.rows && parts.rows <= kMost && 0 <= parts.columns && parts.columns <= kMost,
            "the weight's shape is out of bounds");
    const ZfpPanels weight{reinterpret_cast<const std::uint8_t*>(parts.payload.first),
                           reinterpret_cast<const std::int64_t*>(parts.offsets.first), parts.rows, parts.columns,
                           mode_of(parts.mode, 2, false)};
    require(!weight.mode.has_fixed_rate() || weight.mode.most_bits <= 512, "a panel has more than 32 bits a value");
    const std::int64_t panels = (parts.rows + kSide - 1) / kSide;
    require(parts.payload.second >= 0 && parts.offsets.second / 8 > panels, "the offsets do not fit the shape");
    const Range range = checked_range(rows, parts.rows);
    for (std::int64_t panel = range.first / kSide; panel * kSide < range.last; ++panel)
        require(0 <= weight.offsets[panel] && weight.offsets[panel] <= weight.offsets[panel + 1] &&
                    weight.offsets[panel + 1] <= parts.payload.second,
                "the offsets do not run from 0 to the end of the payload");
    return weight;
}

void decode(const std::string& instruction_set, const ZfpParts& parts, const Bounds& rows, const Bounds& columns,
            const std::string& dtype, const Buffer& values, int threads) {
    const ZfpKernels kernels = TILEPRESS_KERNELS(zfp, instruction_set);
    const ZfpPanels weight = checked(parts, rows);
    decode_range(kernels.panels, weight, weight.rows, weight.columns, rows, columns, dtype, values, threads,
                 kGroupPanels);
}

void multiply(const std::string& instruction_set, const ZfpParts& parts, const Bounds& rows, const Buffer& x,
              const Buffer& bias, const Buffer& y, const std::string& dtype, std::int64_t count, int threads) {
    const ZfpKernels kernels = TILEPRESS_KERNELS(zfp, instruction_set);
    const ZfpPanels weight = checked(parts, rows);
    multiply_range(kernels.panels, weight, weight.rows, weight.columns, rows, x, bias, y, dtype, count, threads,
                   kGroupPanels);
}

// Offsets are not looked at while panels are decoded, so they are checked again whenever they may have changed.
class ZfpWeight final : public PanelWeight<ZfpPanels> {
public:
    ZfpWeight(const ZfpKernels& kernels, const ZfpParts& parts)
        : PanelWeight(kernels.panels, parts.rows, parts.columns, kGroupPanels,
                      [&](std::atomic<bool>&) { return checked(parts, {0, parts.rows}); }),
          parts_(parts) {}
    void check() const override { checked(parts_, {0, parts_.rows}); }

private:
    ZfpParts parts_;
};

std::shared_ptr<Weight> weight_of(const std::string& instruction_set, const ZfpParts& parts) {
    return std::make_shared<ZfpWeight>(TILEPRESS_KERNELS(zfp, instruction_set), parts);
}

// Encode each panel of a float32 matrix; `sizes` is int64 [panels]. Returns the bytes of all streams, which follow each
// other without gaps.
std::int64_t encode(const std::string& instruction_set, const Mode& mode, const Buffer& values, std::int64_t rows,
                    std::int64_t columns, const Buffer& payload, const Buffer& sizes, int threads) {
    const ZfpKernels kernels = TILEPRESS_KERNELS(zfp, instruction_set);
    const ZfpMode zfp_mode = mode_of(mode, 2, false);
    require(0 <= rows && rows <= kMost && 0 <= columns && columns <= kMost, "the shape is out of bounds");
    require(holds(values, rows, columns, sizeof(float)), "the values do not fit the shape");
    const std::int64_t panels = (rows + kSide - 1) / kSide;
    require(holds(sizes, panels, 1, sizeof(std::int64_t)), "the sizes do not fit the shape");
    // Each panel has a place for the most that it can take; what they leave free is closed up afterwards.
    const std::int64_t most = most_bytes(zfp_mode, {2, {columns, kSide, 1}}, false);
    require(most == 0 || payload.second / most >= panels, "the payload has no room for the panels");
    if (values.second == 0) return 0;
    const nb::gil_scoped_release released;
    auto* to = reinterpret_cast<std::uint8_t*>(payload.first);
    auto* written = reinterpret_cast<std::int64_t*>(sizes.first);
    const auto* from = reinterpret_cast<const float*>(values.first);
    over_panels(Range{0, rows}, columns * kSide, threads, [&](Range range) {
        for (std::int64_t panel = range.first; panel < range.last; ++panel) {
            const std::int64_t row = panel * kSide;
            const ZfpShape shape{2, {columns, std::min(kSide, rows - row), 1}};
            written[panel] = kernels.encode_panel(from + row * columns, shape, zfp_mode, to + panel * most);
        }
    });
    std::int64_t end = 0;
    for (std::int64_t panel = 0; panel < panels; end += written[panel++])
        std::memmove(to + end, to + panel * most, static_cast<std::size_t>(written[panel]));
    return end;
}

}  // namespace

void bind_zfp(nb::module_& module) {
    nb::class_<Mode>(module, "ZfpMode", "A mode of zfp by name (rate, precision, tolerance, reversible) and value.")
        .def(nb::init<std::string, double>(), "name"_a, "value"_a);
    module.def("zfp_stream_bytes", &stream_bytes, "mode"_a, "shape"_a, "dtype"_a,
               "Bytes that the stream of an array takes at most.");
    module.def("zfp_encode_stream", &encode_stream, "instruction_set"_a, "mode"_a, "shape"_a, "dtype"_a, "values"_a,
               "stream"_a, "Encode an array of 1 to 3 dimensions; returns the bytes that were written to `stream`.");
    module.def("zfp_decode_stream", &decode_stream, "instruction_set"_a, "mode"_a, "shape"_a, "dtype"_a, "stream"_a,
               "values"_a, "Decode an array of 1 to 3 dimensions into `values`.");
    nb::class_<ZfpParts>(module, "ZfpParts", "A weight as panels of zfp: buffers are (address, bytes).")
        .def(nb::init<Buffer, Buffer, Mode, std::int64_t, std::int64_t>(), "payload"_a, "offsets"_a, "mode"_a, "rows"_a,
             "columns"_a);
    module.def("zfp_decode", &decode, "instruction_set"_a, "parts"_a, "rows"_a, "columns"_a, "dtype"_a, "values"_a,
               "threads"_a, "Decode a range into `values`.");
    module.def("zfp_multiply", &multiply, "instruction_set"_a, "parts"_a, "rows"_a, "x"_a, "bias"_a, "y"_a, "dtype"_a,
               "count"_a, "threads"_a, "Write x @ weight[rows].T + bias to `y`.");
    module.def("zfp_weight", &weight_of, "instruction_set"_a, "parts"_a, "The weight for a decoder.");
    module.def("zfp_encode", &encode, "instruction_set"_a, "mode"_a, "values"_a, "rows"_a, "columns"_a, "payload"_a,
               "sizes"_a, "threads"_a, "Encode panels one after the other; returns the bytes written to `payload`.");
}

}  // namespace tilepress
