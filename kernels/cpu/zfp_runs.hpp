// Table look-ups for the runs of a bit plane of 16 coefficients (see zfp_planes.hpp), both ways.
//
// Decoding is a state machine over bytes of the stream. Its states:
//
//     0..15      so many coefficients are significant, and a group test comes next
//     16         all are: nothing comes
//     17         nothing is read any more
//     18 + n     inside a run of zeros that has come to coefficient n
//
// Encoding looks up the coefficients behind the significant ones, a byte at a time.
#pragma once

#include <cstdint>

namespace tilepress {
namespace {

constexpr unsigned kAllSignificant = 16;
constexpr unsigned kAtRest = 17;
constexpr unsigned kInsideRun = 18;
constexpr unsigned kRunStates = kInsideRun + 15;

// What a byte does: bits 0..7 how many of its bits are taken, 8..13 the next state, 15 whether the plane goes on,
// 16..31 the coefficients that have a one.
struct RunStep {
    std::uint32_t packed;

    unsigned taken() const { return packed & 0xffu; }
    unsigned state() const { return (packed >> 8) & 0x3fu; }
    bool goes_on() const { return (packed & 0x8000u) != 0; }
    std::uint32_t ones() const { return packed >> 16; }
};

struct RunSteps {
    RunStep of[kRunStates << 8];
};

constexpr RunStep run_step(unsigned state, unsigned byte) {
    unsigned taken = 0;
    std::uint32_t ones = 0;
    bool is_inside = state >= kInsideRun;
    unsigned n = is_inside ? state - kInsideRun : state;
    if (state == kAtRest) return {kAtRest << 8};
    while (n < 16) {
        if (is_inside && n == 15) {
            ones |= 1u << n++;
            break;
        }
        if (taken == 8) return {taken | (is_inside ? kInsideRun + n : n) << 8 | 0x8000u | ones << 16};
        const bool bit = ((byte >> taken++) & 1u) != 0;
        if (is_inside) {
            if (bit) ones |= 1u << n;
            ++n;
            is_inside = !bit;
        } else if (bit) {
            is_inside = true;
        } else {
            break;
        }
    }
    return {taken | n << 8 | ones << 16};
}

constexpr RunSteps run_steps() {
    RunSteps steps{};
    for (unsigned state = 0; state < kRunStates; ++state)
        for (unsigned byte = 0; byte < 256; ++byte) steps.of[state << 8 | byte] = run_step(state, byte);
    return steps;
}

constexpr RunSteps kRunSteps = run_steps();

// The bits that eight coefficients take: bits 0..15 the bits, 16..23 how many, 24..31 the coefficients up to the last
// one that is not 0.
struct RunCode {
    std::uint32_t packed;

    std::uint32_t bits() const { return packed & 0xffffu; }
    unsigned count() const { return (packed >> 16) & 0xffu; }
    unsigned coefficients() const { return packed >> 24; }
};

// `last`: no one comes after these eight, so they end with their last one; `inside`: they go on with a run.
constexpr RunCode run_code(unsigned ones, bool inside, bool last) {
    std::uint32_t bits = 0;
    unsigned count = 0, coefficients = 0;
    for (; coefficients < 8 && (!last || ones >> coefficients != 0); ++coefficients) {
        if (!inside) bits |= 1u << count++;
        inside = ((ones >> coefficients) & 1u) == 0;
        if (!inside) bits |= 1u << count;
        ++count;
    }
    return {bits | count << 16 | coefficients << 24};
}

struct RunCodes {
    RunCode only[256];    // no one in what follows, and none before
    RunCode first[256];   // ones in what follows
    RunCode second[512];  // what follows, of which bit 8 says whether it begins inside a run
};

constexpr RunCodes run_codes() {
    RunCodes codes{};
    for (unsigned ones = 0; ones < 256; ++ones) {
        codes.only[ones] = run_code(ones, false, true);
        codes.first[ones] = run_code(ones, false, false);
        codes.second[ones] = run_code(ones, false, true);
        codes.second[ones | 256] = run_code(ones, true, true);
    }
    return codes;
}

constexpr RunCodes kRunCodes = run_codes();

}  // namespace
}  // namespace tilepress
