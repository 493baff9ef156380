// A weight (weight.hpp) of a codec of variable length (panels.hpp).
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "panels.hpp"
#include "weight.hpp"

namespace tilepress {

// x in float32, each row filled up with zeros to a multiple of 16 columns.
struct FloatInput final : Weight::Input {
    std::vector<float> x;

    explicit FloatInput(const Product& product)
        : x(static_cast<std::size_t>(product.count * ((product.columns + kSide - 1) / kSide * kSide))) {}
};

template <class Panels>
class PanelWeight : public Weight {
public:
    // `panels_of(is_damaged)` makes the checked weight; decoders set the flag.
    template <class PanelsOf>
    PanelWeight(const PanelKernels<Panels>& kernels, std::int64_t rows, std::int64_t columns, std::int64_t together,
                const PanelsOf& panels_of)
        : Weight(rows, columns), kernels_(kernels), together_(together), panels_(panels_of(is_damaged_)) {}

    bool was_damaged() override { return is_damaged_.exchange(false); }
    bool reads_input_of(const Weight& other) const override {
        return dynamic_cast<const PanelWeight*>(&other) != nullptr && other.columns() == columns();
    }
    std::unique_ptr<Input> prepare(const Product& product) const override {
        auto input = std::make_unique<FloatInput>(product);
        kernels_.prepare(product, input->x.data());
        return input;
    }
    void multiply(const Product& product, Range panels, const Input& input, float*) const override {
        kernels_.multiply(panels_, panels, product, static_cast<const FloatInput&>(input).x.data());
    }
    std::int64_t panels_together() const override { return together_; }
    void decode_row(std::int64_t row, Dtype dtype, void* values) const override {
        const std::int64_t panel = row / kSide;
        kernels_.decode(panels_, {panel, panel + 1}, Dense{values, dtype, {row, row + 1}, {0, columns()}, false});
    }

private:
    PanelKernels<Panels> kernels_;
    std::int64_t together_;
    std::atomic<bool> is_damaged_{false};
    Panels panels_;
};

}  // namespace tilepress
