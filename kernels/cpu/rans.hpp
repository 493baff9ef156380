// An entropy coder of bytes: 32 interleaved range coders (rANS) over at most 32 symbols.
//
// A model has 32 entries, each a symbol and a frequency; the frequencies add up to 256. Entry e owns the slots from
// start[e], the sum of the frequencies before it. Symbol i of a stream belongs to lane i % 32, and a lane's state is a
// number 256 <= x < 65536. To decode the next 32 symbols, each lane
//
//     finds the entry that owns slot x % 256, and gives its symbol
//     x = frequency * (x / 256) + x % 256 - start
//     where x < 256, the lanes in order: x = 256 x + the next byte of the stream
//
// A stream is the 32 states' low bytes, their high bytes, and then those bytes; past its end, bytes are 0. The encoder
// goes backwards from states 256 + cargo, so that the decoder ends with 32 bytes that cost next to nothing.
//
// Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders".
#pragma once

#include <cstdint>

namespace tilepress {

constexpr int kRansLanes = 32;
constexpr int kRansEntries = 32;
constexpr int kRansSlots = 256;
constexpr std::int64_t kRansStateBytes = 2 * kRansLanes;

struct RansModel {
    std::uint8_t symbols[kRansEntries];
    std::uint8_t frequencies[kRansEntries];  // 0: no such entry; these come first
    std::uint8_t starts[kRansEntries];
    std::uint8_t entry_of_slot[kRansSlots];

    // Fill `starts` and `entry_of_slot`. False where the frequencies don't add up to 256, or the last one is 0.
    bool complete() {
        int slot = 0;
        for (int entry = 0; entry < kRansEntries; ++entry) {
            starts[entry] = static_cast<std::uint8_t>(slot);
            for (int last = slot + frequencies[entry]; slot < last; ++slot) {
                if (slot == kRansSlots) return false;
                entry_of_slot[slot] = static_cast<std::uint8_t>(entry);
            }
        }
        return slot == kRansSlots && frequencies[kRansEntries - 1] != 0;
    }

    // The second half of the entries is all there are.
    bool has_few_entries() const { return starts[kRansEntries / 2] == 0; }
};

// One stream to decode.
struct RansStream {
    const std::uint8_t* bytes;
    std::int64_t size;  // at least kRansStateBytes
    std::int64_t count;
    std::uint8_t* symbols;  // room for `count`, rounded up to whole steps of 32
    std::uint8_t* cargo;    // room for 32: the low bytes of the last states
};

}  // namespace tilepress
