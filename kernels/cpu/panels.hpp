// Codecs whose panels decode alone, whatever their lengths: what a decoder offers, and what is made of it.
//
// A `Source` decodes the panels of one weight. It is a type with
//
//     struct Scratch                     what one thread needs beside it, such as room for a piece
//     void decode(std::int64_t panel, const Rectangle& wanted, Scratch& scratch, Sink&& sink) const
//
// `decode` calls sink(piece) for pieces that cover what is `wanted` of the panel: in any order, none twice, some more
// than is wanted if that is easier, and nothing outside the weight. The columns of a piece begin at a multiple of 16,
// and end at one or where the weight ends. Its values are float32 that the weight's own dtype holds exactly. A source
// must be safe on any bytes: where they are damaged it gives some values, or nothing, and says so in its own way.
//
//     panel_decode.hpp       dense values of a range in any dtype
//     panel_multiply.hpp     products with a few rows of x
//     panel_bindings.hpp     both for Python
#pragma once

#include "product.hpp"

namespace tilepress {

struct Rectangle {
    Range rows;
    Range columns;
};

// Values of a piece of a panel, row by row; `rows` are counted from the weight's first.
struct Piece {
    Range rows;
    Range columns;
    const float* values;
    std::int64_t stride;  // from one row to the next
};

// Kernels of one codec and instruction set. Each works on the panels `panels`; other threads take the others.
template <class Weight>
struct PanelKernels {
    void (*decode)(const Weight&, Range panels, const Dense&);
    // x in float32, each row filled up with zeros to a multiple of 16 columns: what `multiply` reads.
    void (*prepare)(const Product&, float* x);
    void (*multiply)(const Weight&, Range panels, const Product&, const float* x);
};

}  // namespace tilepress
