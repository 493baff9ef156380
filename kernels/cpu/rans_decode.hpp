// Decoding of rANS streams (rans.hpp), step by step of 32 symbols.
//
// An instruction set is a type `Coder` with
//
//     Coder(const RansModel&)
//     States, load(const RansBytes&), store(States, RansBytes&)
//     const std::uint8_t* step(States&, const std::uint8_t* bytes, std::uint8_t* symbols) const
//
// where `step` reads at most 32 bytes and may touch `kRansReach`; it returns where the next byte is.
#pragma once

#include <cstring>

#include "arithmetic.hpp"
#include "rans_bytes.hpp"

namespace tilepress {
namespace {

constexpr std::int64_t kRansReach = 64;

// The last bytes of a stream, followed by the zeros that stand for what is past its end.
struct RansTail {
    std::uint8_t bytes[3 * kRansReach] = {};

    // Where to go on reading after the tail's first `place` bytes; no further than where all that can be touched is 0.
    const std::uint8_t* clamp(const std::uint8_t* place) const {
        return place > bytes + 2 * kRansReach ? bytes + 2 * kRansReach : place;
    }
};

template <class Coder>
void rans_decode(const RansModel& model, const Coder& coder, const RansStream& stream) {
    RansBytes state;
    std::memcpy(state.low, stream.bytes, kRansLanes);
    std::memcpy(state.high, stream.bytes + kRansLanes, kRansLanes);
    const std::uint8_t* bytes = stream.bytes + kRansStateBytes;
    const std::uint8_t* const end = stream.bytes + stream.size;
    std::uint8_t* symbols = stream.symbols;
    std::int64_t steps = stream.count / kRansLanes;
    auto states = coder.load(state);
    for (; steps > 0 && end - bytes >= kRansReach; --steps, symbols += kRansLanes)
        bytes = coder.step(states, bytes, symbols);
    RansTail tail;
    const std::int64_t left = end - bytes;
    std::memcpy(tail.bytes, bytes, static_cast<std::size_t>(smaller(left, kRansReach)));
    if (steps > 0) {
        bytes = tail.bytes;
        for (; steps > 0; --steps, symbols += kRansLanes) bytes = tail.clamp(coder.step(states, bytes, symbols));
    } else {
        bytes = tail.bytes;
    }
    coder.store(states, state);
    for (std::int64_t lane = 0; lane < stream.count % kRansLanes; ++lane) {
        const int entry = model.entry_of_slot[state.low[lane]];
        symbols[lane] = model.symbols[entry];
        unsigned x = model.frequencies[entry] * unsigned{state.high[lane]} + state.low[lane] - model.starts[entry];
        if (x < 256) x = x << 8 | *bytes++;
        state.low[lane] = static_cast<std::uint8_t>(x);
        state.high[lane] = static_cast<std::uint8_t>(x >> 8);
    }
    std::memcpy(stream.cargo, state.low, kRansLanes);
}

}  // namespace
}  // namespace tilepress
