// Bytes that a warp reads from a payload, one after the other.
#pragma once

#include "layout.cuh"

namespace tilepress {

constexpr u32 kAllLanes = 0xffffffffu;

TILEPRESS_DEVICE int lane_number() {
    return static_cast<int>(threadIdx.x % 32);
}

TILEPRESS_DEVICE u32 u16_at(const u8* bytes) {
    return bytes[0] | static_cast<u32>(bytes[1]) << 8;
}

// 128 bytes from where the warp reads lie in its registers, a word a lane, and the 128 behind them are on their way. So
// a byte costs an exchange between lanes, and no load is waited for. Past the end, bytes are 0.
//
// Bytes are counted from `base`, which is aligned to 4 bytes; they are in whole words of the payload.
class WarpBytes {
public:
    TILEPRESS_DEVICE void open(const u8* base, int begin, int size) {
        begin_ = begin;
        end_ = begin + size;
        window_ = begin / 4;
        here_ = word(base, window_ + lane_number());
        behind_ = word(base, window_ + kWords + lane_number());
    }

    // Byte `place` of a lane, for `first` <= place < first + 32; `first` is the same in all lanes, and grows from call
    // to call by 32 at most. The warp meets here.
    TILEPRESS_DEVICE u32 at(const u8* base, int first, int place) {
        const int begin = begin_ - 4 * window_;
        int skipped = 0;
        if (begin + first >= kBytes) {
            skipped = kBytes;
            window_ += kWords;
            here_ = behind_;
            behind_ = word(base, window_ + kWords + lane_number());
        }
        const int within = begin + place - skipped;
        u32 found = __shfl_sync(kAllLanes, here_, within / 4 % kWords);
        if (begin + first + 31 - skipped >= kBytes) {
            const u32 other = __shfl_sync(kAllLanes, behind_, within / 4 % kWords);
            if (within >= kBytes) found = other;
        }
        return begin_ + place < end_ ? found >> (within % 4 * 8) & 255u : 0u;
    }

private:
    static constexpr int kWords = 32, kBytes = 4 * kWords;

    TILEPRESS_DEVICE u32 word(const u8* base, int number) const {
        return 4 * number < end_ ? reinterpret_cast<const u32*>(base)[number] : 0u;
    }

    int begin_, end_, window_;
    u32 here_, behind_;
};

}  // namespace tilepress
