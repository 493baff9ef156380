// Weights that are cut into blocks of one panel and so many columns, of which each decodes alone.
#pragma once

#include "layout.cuh"

namespace tilepress {

// Where a block lies in a weight.
struct BlockPlace {
    i64 number;
    int top, left;     // its first row and column
    int width, count;  // its columns and values
    int wanted;        // values up to the last row that is wanted
};

// The `item`-th block of `block_columns` columns, of those that hold rows and columns of a range.
TILEPRESS_DEVICE BlockPlace block_place(int block_columns, int item, int height, int columns, int row_first,
                                        int row_last, int column_first, int column_last) {
    const int first = column_first / block_columns, last = (column_last + block_columns - 1) / block_columns;
    const int panel = row_first / kSide + item / (last - first), block = first + item % (last - first);
    BlockPlace place;
    place.number = static_cast<i64>(panel) * ((columns + block_columns - 1) / block_columns) + block;
    place.top = panel * kSide;
    place.left = block * block_columns;
    place.width = min(block_columns, columns - place.left);
    place.count = min(kSide, height - place.top) * place.width;
    place.wanted = min(kSide, row_last - place.top) * place.width;
    return place;
}

}  // namespace tilepress
