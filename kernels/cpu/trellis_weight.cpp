#include "trellis_weight.hpp"

#include <cstring>
#include <vector>

#include "panel_decode.hpp"
#include "portable_floats.hpp"
#include "trellis_input.hpp"

namespace tilepress {
namespace {

struct RotatedInput final : Weight::Input {
    TrellisPlanes planes;

    RotatedInput(const std::vector<float>& x, const Product& product, std::int64_t width)
        : planes(x.data(), product.count, width, product.dtype == Dtype::float32) {}
};

bool equal(const std::optional<RotatedSide>& a, const std::optional<RotatedSide>& b) {
    if (a.has_value() != b.has_value()) return false;
    return !a ||
           (a->length == b->length &&
            (a->signs == b->signs || std::memcmp(a->signs, b->signs, static_cast<std::size_t>(a->length / 8)) == 0));
}

// Row `vector` of the result, [rows] of the product's dtype; `results` are filled up to whole panels.
void write_rows(const Product& product, std::int64_t vector, Range panels, const float* results) {
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel)
        finish<PortableFloats>(product, panel, vector, results + (panel - panels.first) * kSide);
}

class StepTrellis final : public Weight {
public:
    StepTrellis(const TrellisKernels& kernels, const TrellisWeight& codes,
                const std::optional<RotatedSide>& columns_side, const std::optional<RotatedSide>& rows_side,
                std::int64_t rows, std::int64_t columns)
        : Weight(rows, columns), kernels_(kernels), codes_(codes), columns_side_(columns_side), rows_side_(rows_side) {}

    bool reads_input_of(const Weight& other) const override {
        const auto* that = dynamic_cast<const StepTrellis*>(&other);
        return that != nullptr && that->columns() == columns() && equal(that->columns_side_, columns_side_);
    }
    std::unique_ptr<Input> prepare(const Product& product) const override {
        std::vector<float> x(static_cast<std::size_t>(product.count * width()));
        x_in_float32<PortableFloats>(product, x.data());
        if (columns_side_)
            for (std::int64_t vector = 0; vector < product.count; ++vector)
                kernels_.rotate_row(*columns_side_, false, x.data() + vector * width());
        return std::make_unique<RotatedInput>(x, product, width());
    }
    void multiply(const Product& product, Range panels, const Input& input, float* sums) const override {
        const TrellisInput x = static_cast<const RotatedInput&>(input).planes.input();
        if (has_sums()) return kernels_.multiply(codes_, panels, 0, x, this->panels() * kSide, sums);
        const std::int64_t height = (panels.last - panels.first) * kSide;
        std::vector<float> results(static_cast<std::size_t>(product.count * height));
        kernels_.multiply(codes_, panels, panels.first, x, height, results.data());
        for (std::int64_t vector = 0; vector < product.count; ++vector)
            write_rows(product, vector, panels, results.data() + vector * height);
    }
    bool has_sums() const override { return rows_side_.has_value(); }
    void finish(const Product& product, const float* sums) const override {
        const std::int64_t height = panels() * kSide;
        std::vector<float> results(sums, sums + product.count * height);
        for (std::int64_t vector = 0; vector < product.count; ++vector) {
            float* row = results.data() + vector * height;
            kernels_.rotate_row(*rows_side_, true, row);
            write_rows(product, vector, {0, panels()}, row);
        }
    }
    bool decodes_rows() const override { return !rows_side_.has_value(); }
    void decode_row(std::int64_t row, Dtype dtype, void* values) const override {
        const std::int64_t panel = row / kSide;
        std::vector<float> decoded(static_cast<std::size_t>(kSide * width()));
        kernels_.decode(codes_, {panel, panel + 1}, panel, Dtype::float32, decoded.data());
        float* wanted = decoded.data() + row % kSide * width();
        if (columns_side_) kernels_.rotate_row(*columns_side_, true, wanted);
        convert<PortableFloats>(wanted, columns(), values, dtype);
    }

private:
    std::int64_t width() const { return codes_.tiles * kSide; }

    TrellisKernels kernels_;
    TrellisWeight codes_;
    std::optional<RotatedSide> columns_side_;
    std::optional<RotatedSide> rows_side_;
};

}  // namespace

std::shared_ptr<Weight> trellis_weight(const TrellisKernels& kernels, const TrellisWeight& codes,
                                       const std::optional<RotatedSide>& columns_side,
                                       const std::optional<RotatedSide>& rows_side, std::int64_t rows,
                                       std::int64_t columns) {
    return std::make_shared<StepTrellis>(kernels, codes, columns_side, rows_side, rows, columns);
}

}  // namespace tilepress
