// Trellis codes as kernels/layout/trellis.py draws them: what all kernels read.
//
// Lane l of a warp decodes steps 8 l to 8 l + 7 of a tile, whose windows begin in the `bits` bytes from byte l * bits
// on: they are the lane's A fragment of mma.m16n8k16.
#pragma once

#include "layout.cuh"

namespace tilepress {

constexpr u32 kMultiplier = 0x83dcd12du;
constexpr int kOffset = 510;
constexpr int kLaneSteps = 8;

template <int kBits_>
struct Bits {
    static constexpr int kBits = kBits_;
};

// The bits that a lane's windows of up to 16 bits lie in.
template <int kBits>
struct LaneBits {
    static constexpr int kWords = (7 * kBits + 16 + 31) / 32;
    static constexpr int kTileWords = 8 * kBits;
    u32 words[kWords + 1];

    // `tile` is aligned to 4 bytes; reading goes round its end.
    TILEPRESS_DEVICE void load(const u8* tile, int lane) {
        const auto* from = reinterpret_cast<const u32*>(tile);
        const int first = lane * kBits / 4;
        for (int i = 0; i <= kWords; ++i) words[i] = from[(first + i) % kTileWords];
        if constexpr (kBits % 4 != 0) {
            const u32 shift = lane * kBits % 4 * 8;
            for (int i = 0; i < kWords; ++i) words[i] = shift_right(words[i], words[i + 1], shift);
        }
    }

    // The window of the lane's step `step`, a constant wherever it is called.
    TILEPRESS_DEVICE u32 state(int step, u32 mask) const {
        const int bit = step * kBits;
        return shift_right(words[bit / 32], words[bit / 32 + 1], bit % 32) & mask;
    }
};

// value + kOffset of a state, added to `base`.
TILEPRESS_DEVICE u32 byte_sum(u32 state, u32 base) {
    return dot_bytes(kMultiplier * state, 0x01010101u, base);
}

// The lane's eight values as float16: its A fragment.
template <class Lane>
TILEPRESS_DEVICE void decode_fragment(const Lane& bits, u32 mask, u32 (&a)[4]) {
    for (int i = 0; i < 4; ++i) {
        // 1024 + sum of bytes, as float16; then the sum less kOffset.
        const u32 even = byte_sum(bits.state(2 * i, mask), Float16::kInteger);
        const u32 odd = byte_sum(bits.state(2 * i + 1, mask), Float16::kInteger);
        constexpr u32 minus = 0x8000u | (Float16::kInteger + kOffset);
        a[i] = Float16::multiply_add(select_bytes(even, odd, 0x5410u), Float16::kOnes, minus << 16 | minus);
    }
}

}  // namespace tilepress
