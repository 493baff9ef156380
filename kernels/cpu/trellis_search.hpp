// The search for the cyclic path through one tile's trellis.
//
// Steps are visited from the last to the first, so that a state follows from its predecessor by
//
//     state = (predecessor << bits | new bits) mod 2^window
//
// What a path's future depends on is its memory, the state without its oldest `bits` bits. The ends: a search over the
// steps around the seam, with free ends of its own, finds the memory at the seam, in which the whole tile's path then
// begins and ends (Tseng et al. 2024, "QTIP", section 3.2).
//
// `Set` is an instruction set's arithmetic on `Set::kLanes` integers of 16 bits. Everything is in an unnamed namespace,
// since each translation unit must have code of its own.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "trellis_exact.hpp"
#include "trellis_pruned.hpp"

namespace tilepress {
namespace {

// Steps on each side of the seam that decide on it, in windows.
constexpr int kReachWindows = 6;

template <int kBits, class Paths>
void trace(const Paths& paths, const std::int16_t* wanted, int steps, std::uint32_t memory, std::uint8_t* bits) {
    for (int i = steps - 1; i >= 0; --i) {
        const std::uint32_t branch = paths.branch_to(memory, wanted[i], i);
        bits[i] = static_cast<std::uint8_t>(branch & ((1u << kBits) - 1));
        memory = branch >> kBits;
    }
}

// The new bits of all steps of the best cyclic path; `wanted` in units of the book, the last step first.
template <int kBits, class Paths>
void find_path(Paths& paths, int window, const std::int16_t* wanted, std::uint8_t* bits) {
    const int memory_bits = window - kBits;
    const int reach = std::min<int>(kTrellisSteps / 2, kReachWindows * ((window + kBits - 1) / kBits));
    std::int16_t around[kTrellisSteps];
    for (int i = 0; i < 2 * reach; ++i) around[i] = wanted[(kTrellisSteps - reach + i) % kTrellisSteps];
    paths.begin_anywhere();
    for (int i = 0; i < 2 * reach; ++i) paths.advance(around[i], i, 0, 0);
    trace<kBits>(paths, around, 2 * reach, paths.end(2 * reach), bits);
    std::uint32_t seam = 0;
    for (int i = 0; i * kBits < memory_bits; ++i) seam |= static_cast<std::uint32_t>(bits[reach - 1 - i]) << i * kBits;
    seam &= (1u << memory_bits) - 1;

    paths.begin_at(seam);
    for (int i = 0; i < kTrellisSteps; ++i) {
        const int bits_left = (kTrellisSteps - 1 - i) * kBits;
        paths.advance(wanted[i], i, seam >> std::min(bits_left, 31), std::max(memory_bits - bits_left, 0));
    }
    trace<kBits>(paths, wanted, kTrellisSteps, seam, bits);
}

template <int kBits, class Paths>
void encode_tiles(const TrellisSearch& search, const TrellisTarget& target, const TrellisBook& book,
                  std::uint16_t* workspace, Range range) {
    Paths paths(search, book, workspace);
    const std::int64_t columns = target.tiles * kTrellisSide;
    const auto most = static_cast<float>(kTrellisOffset);
    for (std::int64_t tile = range.first; tile < range.last; ++tile) {
        const std::int64_t corner = (tile / target.tiles * columns + tile % target.tiles) * kTrellisSide;
        std::int16_t wanted[kTrellisSteps];
        std::uint8_t bits[kTrellisSteps];
        for (int step = 0; step < kTrellisSteps; ++step) {
            const TrellisPlace place = trellis_place(step);
            const float value = target.wanted[corner + place.row * columns + place.column];
            wanted[kTrellisSteps - 1 - step] = in_units(book, std::max(-most, std::min(most, value)));
        }
        find_path<kBits>(paths, search.window, wanted, bits);
        std::reverse(bits, bits + kTrellisSteps);
        std::uint8_t* codes = target.codes + tile * 32 * kBits;
        std::memset(codes, 0, 32 * kBits);
        for (int step = 0; step < kTrellisSteps; ++step) {
            const unsigned shifted = static_cast<unsigned>(bits[step]) << (step * kBits % 8);
            codes[step * kBits / 8] |= static_cast<std::uint8_t>(shifted);
            if (step * kBits % 8 + kBits > 8) codes[step * kBits / 8 + 1] |= static_cast<std::uint8_t>(shifted >> 8);
        }
        // A step's state is its own new bits and those of the steps after it.
        std::uint32_t state = 0;
        for (int step = static_cast<int>(kTrellisSteps) + search.window / kBits; step >= 0; --step) {
            state = (state << kBits | bits[step % kTrellisSteps]) & ((1u << search.window) - 1);
            if (step >= kTrellisSteps) continue;
            const TrellisPlace place = trellis_place(step);
            target.found[corner + place.row * columns + place.column] = static_cast<float>(trellis_value(state));
        }
    }
}

using TrellisEncode = void (*)(const TrellisSearch&, const TrellisTarget&, const TrellisBook&, std::uint16_t*, Range);

template <class Set, class Narrow, int kBits>
void encode_some(const TrellisSearch& search, const TrellisTarget& target, const TrellisBook& book,
                 std::uint16_t* workspace, Range range) {
    // With 8 bits and a window of 12, there are but 16 memories.
    using Exact = ExactPaths<std::conditional_t<kBits == 8, Narrow, Set>, kBits>;
    if (search.survivors == 0)
        encode_tiles<kBits, Exact>(search, target, book, workspace, range);
    else
        encode_tiles<kBits, PrunedPaths<Narrow, kBits>>(search, target, book, workspace, range);
}

template <class Set, class Narrow>
void encode(const TrellisSearch& search, const TrellisTarget& target, const TrellisBook& book, std::uint16_t* workspace,
            Range range) {
    constexpr TrellisEncode functions[] = {encode_some<Set, Narrow, 1>, encode_some<Set, Narrow, 2>,
                                           encode_some<Set, Narrow, 3>, encode_some<Set, Narrow, 4>,
                                           encode_some<Set, Narrow, 5>, encode_some<Set, Narrow, 6>,
                                           encode_some<Set, Narrow, 7>, encode_some<Set, Narrow, 8>};
    functions[search.bits - 1](search, target, book, workspace, range);
}

}  // namespace
}  // namespace tilepress
