// The kernels of `sz`, for a `Set` (product_values.hpp) and `Coders` (sz_tiles.hpp).
#pragma once

#include "panel_multiply.hpp"
#include "sz_tiles.hpp"

namespace tilepress {
namespace {

// Undo the prediction of one row, modulo 2^32; `above` is the row before as integers.
inline void sum_row(Predictor predictor, const std::int32_t* above, std::int64_t width, std::int32_t* row) {
    if (predictor == Predictor::none) return;
    std::uint32_t sum = 0;
    for (std::int64_t i = 0; i < width; ++i) {
        sum += static_cast<std::uint32_t>(row[i]);
        row[i] = static_cast<std::int32_t>(sum);
    }
    if (predictor == Predictor::lorenzo1 || above == nullptr) return;
    for (std::int64_t i = 0; i < width; ++i)
        row[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(row[i]) + static_cast<std::uint32_t>(above[i]));
}

inline float float_of_outlier(Dtype dtype, const std::uint8_t* bytes) {
    if (dtype == Dtype::bfloat16) return float_of_bf16(static_cast<std::uint16_t>(sz_u16(bytes)));
    if (dtype == Dtype::float16) return float_of_fp16(static_cast<std::uint16_t>(sz_u16(bytes)));
    return float_of_bits(sz_u16(bytes) | sz_u16(bytes + 2) << 16);
}

// Pieces of 4 rows in float32, as panels.hpp wants them; where the sink rounds to the weight's dtype anyway, unrounded.
template <class Set, class Coders>
struct SzSource {
    static constexpr std::int64_t piece_rows = 4;

    struct Scratch {
        SzReader<Coders> reader;
        alignas(64) std::int32_t integers[piece_rows * kSzColumns];
        alignas(64) std::int32_t above[kSzColumns];
        alignas(64) float values[piece_rows * kSzColumns];
    };

    const Sz& weight;
    std::int64_t last_panel;  // panels up to it are wanted one after the other, all of them with the same columns
    bool sink_rounds;

    template <class Sink>
    void decode(std::int64_t panel, const Rectangle& wanted, Scratch& scratch, const Sink& sink) const {
        const std::int64_t first = wanted.columns.first / kSzColumns;
        const std::int64_t last = (wanted.columns.last + kSzColumns - 1) / kSzColumns;
        for (std::int64_t number = first; number < last; ++number) {
            const Range columns{number * kSzColumns, smaller((number + 1) * kSzColumns, weight.columns)};
            const SzPlace next = number + 1 < last        ? place(panel, number + 1)
                                 : panel + 1 < last_panel ? place(panel + 1, first)
                                                          : SzPlace{SzTile::kNone, 0};
            const SzTile* tile = scratch.reader.read(weight, place(panel, number), next);
            if (tile != nullptr)
                decode_tile(*tile, panel, wanted.rows, columns, scratch, sink);
            else
                *weight.is_damaged = true;
        }
    }

private:
    SzPlace place(std::int64_t panel, std::int64_t number) const {
        return {panel * weight.tiles + number, smaller(kSide, weight.rows - panel * kSide) *
                                                   smaller(kSzColumns, weight.columns - number * kSzColumns)};
    }

    template <class Sink>
    void decode_tile(const SzTile& tile, std::int64_t panel, const Range& wanted, const Range& columns,
                     Scratch& scratch, const Sink& sink) const {
        const std::int64_t width = columns.last - columns.first;
        const SzCode& code = weight.code;
        const float step = code.step;
        // Rows are only needed for themselves, unless they predict those below.
        const std::int64_t first = code.predictor == Predictor::lorenzo2 ? panel * kSide : wanted.first;
        for (std::int64_t row = first; row < wanted.last; row += piece_rows) {
            const Range rows{row, smaller(row + piece_rows, wanted.last)};
            const std::int64_t place = (row - panel * kSide) * width, count = (rows.last - rows.first) * width;
            tile.residuals(code.shift, place, count, scratch.integers);
            const std::int32_t* above = row == panel * kSide ? nullptr : scratch.above;
            for (std::int64_t i = 0; i < count; i += width) {
                sum_row(code.predictor, above, width, scratch.integers + i);
                above = scratch.integers + i;
            }
            if (code.predictor == Predictor::lorenzo2)
                std::memcpy(scratch.above, above, static_cast<std::size_t>(width) * sizeof *above);
            if (rows.last <= wanted.first) continue;
            for (std::int64_t i = 0; i < count; ++i) scratch.values[i] = static_cast<float>(scratch.integers[i]) * step;
            if (!sink_rounds) round_to<Set>(weight.dtype, scratch.values, count);
            tile.outliers().over(place, place + count, [&](std::int64_t position, const std::uint8_t* value) {
                scratch.values[position - place] = float_of_outlier(weight.dtype, value);
            });
            sink(Piece{rows, columns, scratch.values, width});
        }
    }
};

// Write the bits of a piece's outliers: rounding would not keep those of NaN.
inline void write_outliers(const SzAside& outliers, std::int64_t panel, const Piece& piece, const Dense& dense) {
    const std::int64_t width = piece.columns.last - piece.columns.first;
    const std::int64_t dense_width = dense.columns.last - dense.columns.first;
    const std::int64_t first = (larger(piece.rows.first, dense.rows.first) - panel * kSide) * width;
    const std::int64_t last = (smaller(piece.rows.last, dense.rows.last) - panel * kSide) * width;
    outliers.over(first, last, [&](std::int64_t position, const std::uint8_t* value) {
        const std::int64_t row = panel * kSide + position / width, column = piece.columns.first + position % width;
        if (column < dense.columns.first || column >= dense.columns.last) return;
        const std::int64_t place = (row - dense.rows.first) * dense_width + column - dense.columns.first;
        std::memcpy(static_cast<std::byte*>(dense.values) + place * size_of(dense.dtype), value,
                    static_cast<std::size_t>(size_of(dense.dtype)));
    });
}

template <class Set, class Coders>
void decode_sz(const Sz& weight, Range panels, const Dense& dense) {
    using Source = SzSource<Set, Coders>;
    const bool is_own_dtype = dense.dtype == weight.dtype;
    const Source source{weight, panels.last, is_own_dtype};
    typename Source::Scratch scratch;
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel)
        source.decode(panel, part_of_panel(panel, dense.rows, dense.columns), scratch, [&](const Piece& piece) {
            write_piece<Set>(piece, dense);
            if (is_own_dtype) write_outliers(scratch.reader.outliers(), panel, piece, dense);
        });
}

template <class Set, class Coders>
void multiply_sz(const Sz& weight, Range panels, const Product& product, const float* x) {
    multiply_panels<Set>(SzSource<Set, Coders>{weight, panels.last, false}, panels, product, x);
}

}  // namespace
}  // namespace tilepress
