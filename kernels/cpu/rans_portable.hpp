// rANS steps for any processor: a table of the 256 slots.
#pragma once

#include "rans_decode.hpp"

namespace tilepress {
namespace {

class RansPortable {
public:
    struct States {
        std::uint16_t of[kRansLanes];
    };

    explicit RansPortable(const RansModel& model) {
        for (int slot = 0; slot < kRansSlots; ++slot) {
            const int entry = model.entry_of_slot[slot];
            slots_[slot] = {model.frequencies[entry], static_cast<std::uint8_t>(slot - model.starts[entry]),
                            model.symbols[entry]};
        }
    }

    static States load(const RansBytes& bytes) {
        States states;
        for (int lane = 0; lane < kRansLanes; ++lane)
            states.of[lane] = static_cast<std::uint16_t>(bytes.high[lane] << 8 | bytes.low[lane]);
        return states;
    }

    static void store(const States& states, RansBytes& bytes) {
        for (int lane = 0; lane < kRansLanes; ++lane) {
            bytes.low[lane] = static_cast<std::uint8_t>(states.of[lane]);
            bytes.high[lane] = static_cast<std::uint8_t>(states.of[lane] >> 8);
        }
    }

    const std::uint8_t* step(States& states, const std::uint8_t* bytes, std::uint8_t* symbols) const {
        for (int lane = 0; lane < kRansLanes; ++lane) {
            const unsigned before = states.of[lane];
            const Slot& slot = slots_[before & 0xff];
            symbols[lane] = slot.symbol;
            const unsigned x = slot.frequency * (before >> 8) + slot.place;
            // Without a branch, which nothing could predict.
            const unsigned is_small = x < 256;
            states.of[lane] = static_cast<std::uint16_t>(x << 8 * is_small | (*bytes & -is_small));
            bytes += is_small;
        }
        return bytes;
    }

private:
    struct Slot {
        std::uint8_t frequency, place, symbol;
    };
    Slot slots_[kRansSlots];
};

struct RansCodersPortable {
    template <class... Streams>
    static void decode(const RansModel& model, const Streams&... streams) {
        rans_decode(model, RansPortable(model), streams...);
    }
};

}  // namespace
}  // namespace tilepress
