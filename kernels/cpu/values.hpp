// Dense values: their dtypes, and ranges of a matrix of them.
#pragma once

#include <cstdint>

namespace tilepress {

// Rows of a panel, and columns of a tile; also the values that a `Set` works on at a time.
constexpr std::int64_t kSide = 16;

enum class Dtype { float32, bfloat16, float16 };

constexpr std::int64_t size_of(Dtype dtype) {
    return dtype == Dtype::float32 ? 4 : 2;
}

struct Range {
    std::int64_t first;
    std::int64_t last;
};

// Values of a range, row by row without gaps.
struct Dense {
    void* values;
    Dtype dtype;
    Range rows;
    Range columns;
    bool bypasses_cache;  // so much that nothing of it would be left in a cache
};

}  // namespace tilepress
