// Streams of kernels/reference/rans.py, decoded by a warp: lane l has state l.
#pragma once

#include "warp_bytes.cuh"

namespace tilepress {

constexpr int kRansLanes = 32;
constexpr int kRansEntries = 32;
constexpr int kRansSlots = 256;
constexpr int kRansStateBytes = 2 * kRansLanes;

// Of the entry that owns a slot: its frequency, the slot's place in it, its symbol; a byte each. `model`: 32 symbols
// and their 32 frequencies. What no entry owns, where they don't add up to 256, is 0.
TILEPRESS_DEVICE u32 rans_slot(const u8* model, u32 slot) {
    u32 start = 0, found = 0;
    for (int entry = 0; entry < kRansEntries; ++entry) {
        const u32 frequency = model[kRansEntries + entry];
        if (slot - start < frequency) found = frequency | (slot - start) << 8 | static_cast<u32>(model[entry]) << 16;
        start += frequency;
    }
    return found;
}

// A byte a value, 32 values a step, lane l having every 32nd from value l on: from a stream, or as they are. Bytes are
// counted from `base` as those of WarpBytes.
class Symbols {
public:
    // A stream of at least kRansStateBytes.
    TILEPRESS_DEVICE void open_stream(const u8* base, int begin, int size) {
        const u8* states = base + begin + lane_number();
        state_ = states[0] | static_cast<u32>(states[kRansLanes]) << 8;
        is_coded_ = true;
        place_ = 0;
        bytes_.open(base, begin + kRansStateBytes, size - kRansStateBytes);
    }

    TILEPRESS_DEVICE void open_bytes(const u8* base, int begin, int size) {
        state_ = 0;
        is_coded_ = false;
        place_ = 0;
        bytes_.open(base, begin, size);
    }

    // The byte of a lane's next value, where it has one. `slots`: rans_slot of each. The warp meets here.
    TILEPRESS_DEVICE u32 next(const u8* base, const u32* slots, bool has_one) {
        u32 symbol = 0;
        bool is_hungry = false;
        if (is_coded_ && has_one) {
            const u32 slot = slots[state_ & 255u];
            symbol = slot >> 16;
            state_ = (slot & 255u) * (state_ >> 8) + (slot >> 8 & 255u);
            is_hungry = state_ < 256u;
        }
        const u32 takers = __ballot_sync(kAllLanes, is_hungry || !is_coded_);
        const u32 byte = bytes_.at(base, place_, place_ + __popc(takers & ((1u << lane_number()) - 1)));
        place_ += __popc(takers);
        if (is_hungry) state_ = state_ << 8 | byte;
        return is_coded_ ? symbol : byte;
    }

    // The lane's byte of the cargo of a stream, after its last value.
    TILEPRESS_DEVICE u32 cargo() const { return state_ & 255u; }

private:
    WarpBytes bytes_;
    u32 state_;
    int place_;
    bool is_coded_;
};

}  // namespace tilepress
