// Encoding of rANS streams (rans.hpp), step by step of 32 symbols, backwards.
//
// An instruction set is a type `Pusher` with
//
//     Pusher(const RansModel&)
//     std::uint32_t find(const std::uint8_t* symbols, std::uint8_t* entries) const
//     States, load(const RansBytes&), store(States, RansBytes&)
//     std::uint8_t* push(States&, const std::uint8_t* entries, std::uint8_t* to) const
//
// `find` looks up the entries of 32 symbols; a bit is set for each symbol that has none and gets the most frequent
// entry in its place. `push` is the inverse of a step of the decoder: it writes at most 32 bytes that end at `to`, may
// touch 8 before them, and returns where they begin.
#pragma once

#include <cstring>

#include "rans_bytes.hpp"

namespace tilepress {
namespace {

// What a stream leaves aside: the positions of the symbols that have no entry.
struct RansExceptions {
    std::uint16_t* positions;  // room for as many as there are symbols
    std::int64_t count;
};

// The entries of `count` symbols, at most 65536. Both arrays have room for whole steps of 32.
template <class Pusher>
void rans_find(const Pusher& pusher, const std::uint8_t* symbols, std::int64_t count, std::uint8_t* entries,
               RansExceptions& exceptions) {
    exceptions.count = 0;
    for (std::int64_t first = 0; first < count; first += kRansLanes) {
        std::uint32_t without = pusher.find(symbols + first, entries + first);
        if (count - first < kRansLanes) without &= (1u << (count - first)) - 1;
        for (; without != 0; without &= without - 1)
            exceptions.positions[exceptions.count++] = static_cast<std::uint16_t>(first + __builtin_ctz(without));
    }
}

// Encode symbols by their entries, so that the decoder ends with `cargo`. Writes to the end of `room`, which has
// kRansStateBytes + count bytes, and returns where the stream begins.
template <class Pusher>
std::uint8_t* rans_encode(const RansModel& model, const Pusher& pusher, const std::uint8_t* entries, std::int64_t count,
                          const std::uint8_t* cargo, std::uint8_t* room) {
    RansBytes state;
    std::memcpy(state.low, cargo, kRansLanes);
    std::memset(state.high, 1, kRansLanes);
    std::uint8_t* to = room + kRansStateBytes + count;
    for (; count % kRansLanes != 0; --count) {
        const std::int64_t lane = (count - 1) % kRansLanes;
        const unsigned frequency = model.frequencies[entries[count - 1]];
        unsigned x = unsigned{state.high[lane]} << 8 | state.low[lane];
        if (state.high[lane] >= frequency) {
            *--to = state.low[lane];
            x = state.high[lane];
        }
        state.high[lane] = static_cast<std::uint8_t>(x / frequency);
        state.low[lane] = static_cast<std::uint8_t>(x % frequency + model.starts[entries[count - 1]]);
    }
    auto states = pusher.load(state);
    for (; count > 0; count -= kRansLanes) to = pusher.push(states, entries + count - kRansLanes, to);
    pusher.store(states, state);
    to -= kRansStateBytes;
    std::memcpy(to, state.low, kRansLanes);
    std::memcpy(to + kRansLanes, state.high, kRansLanes);
    return to;
}

// The most frequent entry, and the entry of each symbol or kRansEntries.
struct RansFinder {
    std::uint8_t stand_in = kRansEntries - 1;
    std::uint8_t entry_of[256];

    explicit RansFinder(const RansModel& model) {
        std::memset(entry_of, kRansEntries, sizeof entry_of);
        for (int entry = kRansEntries - 1; entry >= 0; --entry) {
            if (model.frequencies[entry] == 0) continue;
            entry_of[model.symbols[entry]] = static_cast<std::uint8_t>(entry);
            if (model.frequencies[entry] > model.frequencies[stand_in]) stand_in = static_cast<std::uint8_t>(entry);
        }
    }
};

}  // namespace
}  // namespace tilepress
