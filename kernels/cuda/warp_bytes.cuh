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
// `payload` is aligned to 4 bytes, and is a whole number of words.
class WarpBytes {
public:
    TILEPRESS_DEVICE void open(const u8* payload, i64 begin, int size) {
        words_ = reinterpret_cast<const u32*>(payload + begin / 4 * 4);
        skipped_ = static_cast<int>(begin % 4);
        size_ = size;
        first_ = 0;
        here_ = word(lane_number());
        behind_ = word(kWords + lane_number());
    }

    // Byte `place` of a lane, for `first` <= place < first + 32; `first` is the same in all lanes, and grows from call
    // to call by 32 at most. The warp meets here.
    TILEPRESS_DEVICE u32 at(int first, int place) {
        if (skipped_ + first - first_ >= kBytes) {
            first_ += kBytes;
            here_ = behind_;
            behind_ = word(first_ / 4 + kWords + lane_number());
        }
        const int within = skipped_ + place - first_;
        u32 found = __shfl_sync(kAllLanes, here_, within / 4 % kWords);
        if (skipped_ + first + 31 - first_ >= kBytes) {
            const u32 other = __shfl_sync(kAllLanes, behind_, within / 4 % kWords);
            if (within >= kBytes) found = other;
        }
        return place < size_ ? found >> (within % 4 * 8) & 255u : 0u;
    }

private:
    static constexpr int kWords = 32, kBytes = 4 * kWords;

    TILEPRESS_DEVICE u32 word(int number) const { return 4 * number < skipped_ + size_ ? words_[number] : 0u; }

    const u32* words_;
    int skipped_, size_, first_;
    u32 here_, behind_;
};

}  // namespace tilepress
