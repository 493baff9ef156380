// The bit planes of four blocks, read in turns: each is a chain of look-ups (zfp_runs.hpp), and a processor follows
// several at a time.
#pragma once

#include <algorithm>

#include "zfp_lanes.hpp"
#include "zfp_runs.hpp"

namespace tilepress {
namespace {

constexpr int kTurns = 4;
constexpr int kHeaderBits = 9;  // whether a block has an exponent, and the exponent

// Blocks that are read in turns: where each stands and, at fixed rate, where zeros begin, in bits from `bytes`; else
// the lowest plane that each has. `bytes` goes on with zeros for as long as a decoder may read.
struct Turns {
    const std::uint8_t* bytes;
    std::uint64_t position[kTurns];
    std::uint64_t end[kTurns];
    int least_plane[kTurns];
};

inline std::uint64_t window(const std::uint8_t* bytes, std::uint64_t position) {
    return load_word(bytes + (position >> 3)) >> (position & 7);
}

// A run of zeros that the end of a block of fixed rate cut short ends there with a one, where `read_planes` read zeros
// up to the last coefficient. Every plane after that one took 16 bits.
inline void mend_run(const Turns& turns, int turn, int plane, LanePlanes& planes, int lane) {
    const auto beyond = static_cast<std::int64_t>(turns.position[turn] - turns.end[turn]);
    if (beyond <= 0) return;
    std::uint16_t& ones = planes.of[plane + (beyond - 1) / 16][lane];
    if ((ones & 0x8000u) != 0) ones = static_cast<std::uint16_t>(ones ^ 0x8000u ^ (0x4000u >> ((beyond - 1) % 16)));
}

// Read the planes of four blocks to `planes.of[..][lane + step * turn]`. Returns the lowest plane that was read.
//
// At fixed rate nothing counts the bits that are left: zeros, read as if they belonged to the block, do what its end
// does, but for a run of zeros.
template <bool FixedRate>
inline int read_planes(Turns& turns, LanePlanes& planes, int lane, int step) {
    unsigned state[kTurns] = {};
    const int lowest = FixedRate ? 0 : *std::min_element(turns.least_plane, turns.least_plane + kTurns);
    int plane = kPlanes;
    while (plane > lowest) {
        --plane;
        std::uint32_t ones[kTurns];
        RunStep run[kTurns];
        std::uint32_t any = 0;
        for (int turn = 0; turn < kTurns; ++turn) {
            unsigned known = state[turn];
            if constexpr (!FixedRate) {
                // Without a branch, which nothing could predict.
                const unsigned goes_on = 0u - static_cast<unsigned>(plane >= turns.least_plane[turn]);
                known &= goes_on;
                state[turn] = known | (kAtRest & ~goes_on);
            }
            const std::uint64_t bits = window(turns.bytes, turns.position[turn]);
            run[turn] = kRunSteps.of[state[turn] << 8 | ((bits >> known) & 0xff)];
            ones[turn] = static_cast<std::uint32_t>(bits & ((std::uint64_t{1} << known) - 1)) | run[turn].ones();
            turns.position[turn] += known + run[turn].taken();
            any |= run[turn].packed;
        }
        if (RunStep{any}.goes_on())
            for (int turn = 0; turn < kTurns; ++turn)
                while (run[turn].goes_on()) {
                    const std::uint64_t bits = window(turns.bytes, turns.position[turn]);
                    run[turn] = kRunSteps.of[run[turn].state() << 8 | (bits & 0xff)];
                    ones[turn] |= run[turn].ones();
                    turns.position[turn] += run[turn].taken();
                }
        std::uint64_t left = 0;
        for (int turn = 0; turn < kTurns; ++turn) {
            planes.of[plane][lane + step * turn] = static_cast<std::uint16_t>(ones[turn]);
            state[turn] = run[turn].state();
            if constexpr (FixedRate) left |= turns.position[turn] - turns.end[turn];
        }
        if (FixedRate && static_cast<std::int64_t>(left) >= 0) break;
    }
    if constexpr (FixedRate)
        for (int turn = 0; turn < kTurns; ++turn)
            if (state[turn] == kAllSignificant) mend_run(turns, turn, plane, planes, lane + step * turn);
    return plane;
}

}  // namespace
}  // namespace tilepress
