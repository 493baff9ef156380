// The kernels of `lossless`, for a `Set` (product_values.hpp) and `Coders` (lossless_blocks.hpp).
#pragma once

#include "lossless_blocks.hpp"
#include "panel_multiply.hpp"

namespace tilepress {
namespace {

// The blocks of a rectangle, panel by panel.
class Blocks {
public:
    // Panels up to `last_panel` are wanted one after the other, all of them with the same columns.
    Blocks(const Lossless& weight, std::int64_t last_panel) : weight_(weight), last_panel_(last_panel) {}

    // Call function(planes, columns) for every block of a panel that the range meets.
    template <class Coders, class Function>
    void over(BlockReader<Coders>& reader, std::int64_t panel, const Rectangle& wanted,
              const Function& function) const {
        const std::int64_t first = wanted.columns.first / kBlockColumns;
        const std::int64_t last = (wanted.columns.last + kBlockColumns - 1) / kBlockColumns;
        const std::int64_t rows = wanted.rows.last - panel * kSide;
        for (std::int64_t block = first; block < last; ++block) {
            const Range columns{block * kBlockColumns, smaller((block + 1) * kBlockColumns, weight_.columns)};
            const BlockPlace next = block + 1 < last          ? place(panel, block + 1)
                                    : panel + 1 < last_panel_ ? place(panel + 1, first)
                                                              : BlockPlace{Block::kNone, 0};
            const Planes* planes =
                reader.read(weight_, place(panel, block), rows * (columns.last - columns.first), next);
            if (planes != nullptr)
                function(*planes, columns);
            else
                *weight_.is_damaged = true;
        }
    }

private:
    BlockPlace place(std::int64_t panel, std::int64_t block) const {
        return {panel * weight_.blocks + block, smaller(kSide, weight_.rows - panel * kSide) *
                                                    smaller(kBlockColumns, weight_.columns - block * kBlockColumns)};
    }

    const Lossless& weight_;
    std::int64_t last_panel_;
};

// Pieces of 4 rows in float32, as panels.hpp wants them.
template <class Set, class Coders>
struct LosslessSource {
    static constexpr std::int64_t piece_rows = 4;

    struct Scratch {
        BlockReader<Coders> reader;
        alignas(64) float values[piece_rows * kBlockColumns];
    };

    const Lossless& weight;
    std::int64_t last_panel;  // see Blocks

    template <class Sink>
    void decode(std::int64_t panel, const Rectangle& wanted, Scratch& scratch, const Sink& sink) const {
        Blocks(weight, last_panel).over(scratch.reader, panel, wanted, [&](const Planes& planes, const Range& columns) {
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
    const Blocks blocks(weight, panels.last);
    const std::int64_t size = size_of(dense.dtype);
    const std::int64_t dense_width = dense.columns.last - dense.columns.first;
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        const Rectangle wanted = part_of_panel(panel, dense.rows, dense.columns);
        blocks.over(reader, panel, wanted, [&](const Planes& planes, const Range& block) {
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
    decode_panels<Set>(LosslessSource<Set, Coders>{weight, panels.last}, panels, dense);
}

template <class Set, class Coders>
void multiply_lossless(const Lossless& weight, Range panels, const Product& product, const float* x) {
    multiply_panels<Set>(LosslessSource<Set, Coders>{weight, panels.last}, panels, product, x);
}

}  // namespace
}  // namespace tilepress
