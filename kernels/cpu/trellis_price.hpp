// What a weight costs that is coded by some value: an integer of 16 bits, so that no result depends on the instruction
// set. It is the squared distance in units of the book, and from the distance `bend` on, where squares would overflow,
// a line.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "trellis.hpp"
#include "trellis_encode.hpp"

namespace tilepress {
namespace {

constexpr std::uint16_t kUnreachable = 0xffff;
// Books of as many bits a weight, or more, are so fine that far distances would overflow.
constexpr int kFineBits = 5;
constexpr float kLongest = 1638.0f;

inline std::int16_t in_units(const TrellisBook& book, float value) {
    return static_cast<std::int16_t>(std::floor(value * book.units + 0.5f));
}

template <class Set, int kBits>
class Price {
public:
    explicit Price(const TrellisBook& book)
        : bend_(Set::broadcast(book.bend)), longest_(Set::broadcast(book.longest)), book_(&book) {}

    typename Set::Lanes operator()(typename Set::Lanes values, typename Set::Lanes target) const {
        const auto distance = Set::magnitude(Set::subtract(values, target));
        const auto bent = Set::minimum(distance, bend_);
        if constexpr (kBits < kFineBits) return Set::multiply(bent, distance);
        return Set::multiply(bent, Set::minimum(distance, longest_));
    }

    std::uint32_t of(std::uint32_t state, std::int16_t wanted) const {
        const auto distance = static_cast<std::uint32_t>(std::abs(book_->values[state] - wanted));
        return std::min<std::uint32_t>(distance, book_->bend) * std::min<std::uint32_t>(distance, book_->longest);
    }

private:
    typename Set::Lanes bend_, longest_;
    const TrellisBook* book_;
};

}  // namespace
}  // namespace tilepress
