// Models of bytes and the encoder of rANS streams (rans.hpp).
#pragma once

#include <cstdint>

#include "rans.hpp"

namespace tilepress {

// Bits that a symbol without an entry costs beside the entry that stands for it.
constexpr double kRansExceptionBits = 24;

// The model that codes these `counts` of 256 symbols in the fewest bits, exceptions included; returns those bits. There
// must be two symbols or more.
double fit_rans_model(const std::int64_t* counts, RansModel& model);

class RansEncoder {
public:
    explicit RansEncoder(const RansModel& model);

    bool has_entry(std::uint8_t symbol) const { return codes_[symbol].limit != 0; }
    // The symbol that stands for those without an entry.
    std::uint8_t stand_in() const { return stand_in_; }

    // Encode `count` symbols, all of them with an entry, so that the decoder ends with `cargo`. Writes to the end of
    // `room`, which has kRansStateBytes + count bytes, and returns where the stream begins.
    std::uint8_t* encode(const std::uint8_t* symbols, std::int64_t count, const std::uint8_t* cargo,
                         std::uint8_t* room) const;

private:
    struct Code {
        std::uint32_t limit;       // 256 times the frequency: a state that is not below it gives a byte away first
        std::uint32_t reciprocal;  // of the frequency, times 2^24, rounded up: exact for 16-bit dividends
        std::uint32_t complement;  // 256 less the frequency
        std::uint32_t start;
    };
    static std::uint8_t* push(const Code& code, std::uint32_t& state, std::uint8_t* to);

    Code codes_[256] = {};
    std::uint8_t stand_in_ = 0;
};

}  // namespace tilepress
