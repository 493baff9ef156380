// The kernels of `lossless`, for a `Set` (product_values.hpp) and `Coders` (lossless_blocks.hpp).
#pragma once

#include "lossless_blocks.hpp"
#include "panel_multiply.hpp"

namespace tilepress {
namespace {

// Call function(planes, columns, rows) for every block of a panel that the range meets; `rows` are those to use.
template <class Coders, class Function>
void over_blocks(const Lossless& weight, BlockReader<Coders>& reader, std::int64_t panel, const Rectangle& wanted,
                 const Function& function) {
    const std::int64_t panel_rows = smaller(kSide, weight.rows - panel * kSide);
    const std::int64_t last = (wanted.columns.last + kBlockColumns - 1) / kBlockColumns;
    for (std::int64_t block = wanted.columns.first / kBlockColumns; block < last; ++block) {
        const Range columns{block * kBlockColumns, smaller((block + 1) * kBlockColumns, weight.columns)};
        const std::int64_t width = columns.last - columns.first;
        Planes planes;
        if (reader.read(weight, panel * weight.blocks + block, panel_rows * width,
                        (wanted.rows.last - panel * kSide) * width, planes))
            function(planes, columns);
        else
            *weight.is_damaged = true;
    }
}

// Pieces of 4 rows in float32, as panels.hpp wants them.
template <class Set, class Coders>
struct LosslessSource {
    static constexpr std::int64_t piece_rows = 4;

    struct Scratch {
        BlockReader<Coders> reader;
        alignas(64) float values[piece_rows * kBlockColumns];
    };

    const Lossless& weight;

    template <class Sink>
    void decode(std::int64_t panel, const Rectangle& wanted, Scratch& scratch, const Sink& sink) const {
        over_blocks(weight, scratch.reader, panel, wanted, [&](const Planes& planes, const Range& columns) {
            const std::int64_t width = columns.last - columns.first;
            for (std::int64_t row = wanted.rows.first; row < wanted.rows.last; row += piece_rows) {
                const Range rows{row, smaller(row + piece_rows, wanted.rows.last)};
                for (std::int64_t inner = rows.first; inner < rows.last; ++inner)
                    floats_of<Set>(weight.codes.dtype, planes, (inner - panel * kSide) * width, width,
                                   scratch.values + (inner - row) * kBlockColumns);
                sink(Piece{rows, columns, scratch.values, kBlockColumns});
            }
        });
    }
};

// Values in the weight's own dtype, whatever their bits.
template <class Coders>
void decode_bits(const Lossless& weight, Range panels, const Dense& dense) {
    BlockReader<Coders> reader;
    const std::int64_t size = size_of(dense.dtype);
    const std::int64_t dense_width = dense.columns.last - dense.columns.first;
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        const Rectangle wanted = part_of_panel(panel, dense.rows, dense.columns);
        over_blocks(weight, reader, panel, wanted, [&](const Planes& planes, const Range& block) {
            const Range columns{larger(block.first, dense.columns.first), smaller(block.last, dense.columns.last)};
            for (std::int64_t row = wanted.rows.first; row < wanted.rows.last; ++row) {
                const std::int64_t first =
                    (row - panel * kSide) * (block.last - block.first) + columns.first - block.first;
                const std::int64_t place = (row - dense.rows.first) * dense_width + columns.first - dense.columns.first;
                values_of(dense.dtype, planes, first, columns.last - columns.first,
                          static_cast<std::byte*>(dense.values) + place * size);
            }
        });
    }
}

template <class Set, class Coders>
void decode_lossless(const Lossless& weight, Range panels, const Dense& dense) {
    if (dense.dtype == weight.codes.dtype) return decode_bits<Coders>(weight, panels, dense);
    decode_panels<Set>(LosslessSource<Set, Coders>{weight}, panels, dense);
}

template <class Set, class Coders>
void multiply_lossless(const Lossless& weight, Range panels, const Product& product, const float* x) {
    multiply_panels<Set>(LosslessSource<Set, Coders>{weight}, panels, product, x);
}

}  // namespace
}  // namespace tilepress
