// A weight of a model as a decoder's step (decoder.hpp) multiplies by it, whatever its codec.
//
// Threads share the panels of a product: each prepares x for itself, and multiplies panels that no other one does. The
// parts lie where they lay when the weight was made, and whoever made it keeps them there.
#pragma once

#include <cstdint>
#include <memory>

#include "product.hpp"

namespace tilepress {

class Weight {
public:
    // x in the form that `multiply` reads.
    struct Input {
        virtual ~Input() = default;
    };

    Weight(std::int64_t rows, std::int64_t columns) : rows_(rows), columns_(columns) {}
    virtual ~Weight() = default;
    Weight(const Weight&) = delete;
    Weight& operator=(const Weight&) = delete;

    std::int64_t rows() const { return rows_; }
    std::int64_t columns() const { return columns_; }
    std::int64_t panels() const { return (rows_ + kSide - 1) / kSide; }

    // To be called before products: throws std::invalid_argument where the parts, which may have changed since, can't
    // be read safely.
    virtual void check() const {}
    // True where what was decoded since the last call is not what an encoder wrote.
    virtual bool was_damaged() { return false; }

    // Whether an input that the other weight has prepared can be read by this one.
    virtual bool reads_input_of(const Weight& other) const = 0;
    virtual std::unique_ptr<Input> prepare(const Product&) const = 0;
    // Rows of the panels: to the product's y, or, of a weight that `has_sums`, to [count][panels * 16] sums.
    virtual void multiply(const Product&, Range panels, const Input&, float* sums) const = 0;
    // Panels that are read together; a thread should take a multiple of them.
    virtual std::int64_t panels_together() const { return 1; }

    // Whether results mix the rows of many panels, so that all sums must be there before `finish` makes y of them.
    virtual bool has_sums() const { return false; }
    virtual void finish(const Product&, const float* /*sums*/) const {}

    // Whether a row can be decoded alone, [columns] of `dtype`.
    virtual bool decodes_rows() const { return true; }
    virtual void decode_row(std::int64_t row, Dtype dtype, void* values) const = 0;

private:
    std::int64_t rows_;
    std::int64_t columns_;
};

}  // namespace tilepress
