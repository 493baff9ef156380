// Pieces that are encoded by several threads and end up one after the other.
#pragma once

#include <cstdint>
#include <cstring>

#include "parallel.hpp"

namespace tilepress {
namespace {

// Call encode(first, last, to) for runs of the pieces 0..count, at most `step` at a time where there are several
// threads. It writes them one after the other, each at most `most` bytes and sizes[piece] in the end; `to` has room for
// count * most. Returns the bytes of all.
template <class Encode>
std::int64_t encode_pieces(std::int64_t count, std::int64_t step, std::int64_t most, int threads, std::uint8_t* to,
                           const std::int64_t* sizes, const Encode& encode) {
    if (threads == 1) step = count > 0 ? count : 1;
    parallel(count, step, threads,
             [&](std::int64_t first, std::int64_t last) { encode(first, last, to + first * most); });
    std::int64_t end = 0;
    for (std::int64_t first = 0; first < count; first += step) {
        std::int64_t bytes = 0;
        for (std::int64_t piece = first; piece < first + step && piece < count; ++piece) bytes += sizes[piece];
        if (end != first * most) std::memmove(to + end, to + first * most, static_cast<std::size_t>(bytes));
        end += bytes;
    }
    return end;
}

}  // namespace
}  // namespace tilepress
