// The rotation of kernels/layout/rotation.py, in place, in the order of sums that kernels/reference/rotation.py
// defines.
//
// A line is 16 values. Of a side that is rotated across many columns, line i holds value i of 16 columns; of a single
// row, line i holds values 16 i .. 16 i + 15, whose first four butterflies stay within the line. Either way the rest
// happens among whole lines. Beside what product_values.hpp says, a `Set` offers
//
//     butterflies(values)            sums and differences of the 16 values 1, 2, 4 and 8 apart
//     change_signs(values, mask)     minus the values whose bits are set
//
// In an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <cstring>
#include <vector>

#include "trellis.hpp"

namespace tilepress {
namespace {

// Lines that lie in the nearest cache, so that their butterflies are done before the next ones'.
constexpr std::int64_t kNearLines = 256;
// Lines that the Hartley matrix makes at a time.
constexpr int kMixedLines = 4;

// Sums and differences of lines `half` apart, then of those twice as far apart, up to `count` lines.
template <class Set>
void combine_lines(float* lines, std::int64_t count, std::int64_t half) {
    for (; 4 * half <= count; half *= 4)
        for (std::int64_t first = 0; first < count; first += 4 * half)
            for (std::int64_t line = first; line < first + half; ++line) {
                float* at = lines + line * kSide;
                const std::int64_t step = half * kSide;
                const auto a = Set::load(at), b = Set::load(at + step);
                const auto c = Set::load(at + 2 * step), d = Set::load(at + 3 * step);
                const auto sum = Set::add(a, b), other_sum = Set::add(c, d);
                Set::store(at, Set::add(sum, other_sum));
                Set::store(at + 2 * step, Set::subtract(sum, other_sum));
                const auto difference = Set::subtract(a, b), other_difference = Set::subtract(c, d);
                Set::store(at + step, Set::add(difference, other_difference));
                Set::store(at + 3 * step, Set::subtract(difference, other_difference));
            }
    for (; 2 * half <= count; half *= 2)
        for (std::int64_t first = 0; first < count; first += 2 * half)
            for (std::int64_t line = first; line < first + half; ++line) {
                float* at = lines + line * kSide;
                const auto a = Set::load(at), b = Set::load(at + half * kSide);
                Set::store(at, Set::add(a, b));
                Set::store(at + half * kSide, Set::subtract(a, b));
            }
}

template <class Set>
void walsh_hadamard(float* lines, std::int64_t count) {
    const std::int64_t near = count < kNearLines ? count : kNearLines;
    for (std::int64_t first = 0; first < count; first += near) combine_lines<Set>(lines + first * kSide, near, 1);
    combine_lines<Set>(lines, count, near);
}

// The Hartley matrix among `odd` lines that lie `distance` lines apart; `copy` has room for them.
template <class Set>
void hartley(const RotatedSide& side, float* lines, std::int64_t distance, float* copy) {
    for (std::int64_t i = 0; i < side.odd; ++i)
        std::memcpy(copy + i * kSide, lines + i * distance * kSide, kSide * sizeof(float));
    for (std::int64_t first = 0; first < side.odd; first += kMixedLines) {
        typename Set::Values mixed[kMixedLines];
        const float* rows[kMixedLines];  // of the table; beyond its end the last one again
        for (int i = 0; i < kMixedLines; ++i) {
            rows[i] = side.table + (first + i < side.odd ? first + i : side.odd - 1) * side.odd;
            mixed[i] = Set::multiply(Set::broadcast(rows[i][0]), Set::load(copy));
        }
        for (std::int64_t j = 1; j < side.odd; ++j) {
            const auto line = Set::load(copy + j * kSide);
            for (int i = 0; i < kMixedLines; ++i)
                mixed[i] = Set::add(mixed[i], Set::multiply(Set::broadcast(rows[i][j]), line));
        }
        for (int i = 0; i < kMixedLines && first + i < side.odd; ++i)
            Set::store(lines + (first + i) * distance * kSide, mixed[i]);
    }
}

// What follows the butterflies within lines: `power` values of the side are `near_lines` lines.
template <class Set>
void mix_lines(const RotatedSide& side, float* lines, std::int64_t count, std::int64_t near_lines) {
    const auto scale = Set::broadcast(side.scale);
    for (std::int64_t first = 0; first < count; first += near_lines)
        walsh_hadamard<Set>(lines + first * kSide, near_lines);
    for (std::int64_t line = 0; line < count; ++line)
        Set::store(lines + line * kSide, Set::multiply(Set::load(lines + line * kSide), scale));
    if (side.odd == 1) return;
    std::vector<float> copy(static_cast<std::size_t>(side.odd * kSide));
    for (std::int64_t block = 0; block < count; block += side.odd * near_lines)
        for (std::int64_t line = block; line < block + near_lines; ++line)
            hartley<Set>(side, lines + line * kSide, near_lines, copy.data());
}

inline unsigned signs_at(const RotatedSide& side, std::int64_t line) {
    return side.signs[2 * line] | static_cast<unsigned>(side.signs[2 * line + 1]) << 8;
}

// A side of one row: `length` values, a multiple of 16.
template <class Set>
void rotate_row(const RotatedSide& side, bool back, float* row) {
    const std::int64_t lines = side.length / kSide;
    for (std::int64_t line = 0; line < lines; ++line) {
        auto values = Set::load(row + line * kSide);
        if (!back) values = Set::change_signs(values, signs_at(side, line));
        Set::store(row + line * kSide, Set::butterflies(values));
    }
    mix_lines<Set>(side, row, lines, side.power / kSide);
    for (std::int64_t line = 0; back && line < lines; ++line)
        Set::store(row + line * kSide, Set::change_signs(Set::load(row + line * kSide), signs_at(side, line)));
}

// A side of 16 columns at once, [length][16].
template <class Set>
void rotate_lines(const RotatedSide& side, bool back, float* lines) {
    const auto change_signs = [&] {
        for (std::int64_t i = 0; i < side.length; ++i)
            if (side.signs[i / 8] >> (i % 8) & 1)
                Set::store(lines + i * kSide, Set::change_signs(Set::load(lines + i * kSide), 0xffff));
    };
    if (!back) change_signs();
    mix_lines<Set>(side, lines, side.length, side.power);
    if (back) change_signs();
}

}  // namespace
}  // namespace tilepress
