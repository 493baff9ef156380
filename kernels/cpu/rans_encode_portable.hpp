// The inverse of rANS steps for any processor.
#pragma once

#include "rans_encode.hpp"

namespace tilepress {
namespace {

class RansPusherPortable {
public:
    struct States {
        std::uint32_t of[kRansLanes];
    };

    explicit RansPusherPortable(const RansModel& model) : finder_(model) {
        for (int entry = 0; entry < kRansEntries; ++entry) {
            const std::uint32_t frequency = model.frequencies[entry];
            if (frequency == 0) continue;
            codes_[entry] = {frequency << 8, ((1u << 24) + frequency - 1) / frequency, 256 - frequency,
                             model.starts[entry]};
        }
    }

    std::uint32_t find(const std::uint8_t* symbols, std::uint8_t* entries) const {
        std::uint32_t without = 0;
        for (int lane = 0; lane < kRansLanes; ++lane) {
            const std::uint8_t entry = finder_.entry_of[symbols[lane]];
            const bool has_none = entry == kRansEntries;
            entries[lane] = has_none ? finder_.stand_in : entry;
            without |= std::uint32_t{has_none} << lane;
        }
        return without;
    }

    static States load(const RansBytes& bytes) {
        States states;
        for (int lane = 0; lane < kRansLanes; ++lane)
            states.of[lane] = std::uint32_t{bytes.high[lane]} << 8 | bytes.low[lane];
        return states;
    }

    static void store(const States& states, RansBytes& bytes) {
        for (int lane = 0; lane < kRansLanes; ++lane) {
            bytes.low[lane] = static_cast<std::uint8_t>(states.of[lane]);
            bytes.high[lane] = static_cast<std::uint8_t>(states.of[lane] >> 8);
        }
    }

    std::uint8_t* push(States& states, const std::uint8_t* entries, std::uint8_t* to) const {
        for (int lane = kRansLanes - 1; lane >= 0; --lane) {
            const Code& code = codes_[entries[lane]];
            // Without a branch, which nothing could predict.
            const std::uint32_t before = states.of[lane];
            const bool is_large = before >= code.limit;
            to[-1] = static_cast<std::uint8_t>(before);
            to -= is_large;
            const std::uint32_t x = is_large ? before >> 8 : before;
            // 256 (x / frequency) + x % frequency + start
            const auto quotient = static_cast<std::uint32_t>(std::uint64_t{x} * code.reciprocal >> 24);
            states.of[lane] = x + quotient * code.complement + code.start;
        }
        return to;
    }

private:
    struct Code {
        std::uint32_t limit;       // 256 times the frequency: a state that is not below it gives a byte away first
        std::uint32_t reciprocal;  // of the frequency, times 2^24, rounded up: exact for 16-bit dividends
        std::uint32_t complement;  // 256 less the frequency
        std::uint32_t start;
    };

    RansFinder finder_;
    Code codes_[kRansEntries] = {};
};

// Gives each model its pusher.
struct RansPushersPortable {
    template <class Function>
    static void with(const RansModel& model, const Function& function) {
        function(RansPusherPortable(model));
    }
};

}  // namespace
}  // namespace tilepress
