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

// Bits of a window: 16 where that is all that is there, or as many as the mask of a launch leaves.
template <int kBits_>
struct Window {
    static constexpr bool kIsMasked = kBits_ != 16;
};

// The bits that a lane's windows of up to 16 bits lie in, from the lane's first one on.
template <int kBits>
struct LaneBits {
    static constexpr int kSpan = (kLaneSteps - 1) * kBits + 16;
    static constexpr int kWords = (kSpan + 31) / 32;
    // Lanes begin at whole words. Of the last one, at most 16 bits are needed; the others are zero.
    static constexpr bool kIsAligned = kBits % 4 == 0;
    u32 words[kWords + 1];

    // 16 bits from those of step `step` on, a constant wherever it is called. Steps that lie alike in bytes share
    // shifted words, of which one instruction takes a window.
    TILEPRESS_DEVICE u32 state(int step) const {
        const int bit = step * kBits, word = bit / 32, byte = bit / 8 % 4;
        const u32 low = shift_right(words[word], words[word + 1], bit % 8);
        if (byte < 3) return select_bytes(low, 0u, 0x4400u | (byte + 1) << 4 | byte);
        if (kIsAligned && word == kWords - 2) return select_bytes(low, words[word + 1] >> (bit % 8), 0x7743u);
        return shift_right(words[word], words[word + 1], bit % 32) & 0xffffu;
    }
};

// Reads the bits of a lane from one tile after the other.
template <int kBits>
class LaneReader {
public:
    TILEPRESS_DEVICE explicit LaneReader(int lane) : shift_(lane * kBits % 4 * 8) {
        for (int i = 0; i < kLoaded; ++i) places_[i] = (lane * kBits / 4 + i) % (8 * kBits) * 4;
    }

    // `tile` is aligned to 4 bytes; reading goes round its end.
    TILEPRESS_DEVICE LaneBits<kBits> read(const u8* tile) const {
        LaneBits<kBits> bits = {};
        for (int i = 0; i < kLoaded; ++i) {
            if (Lane::kIsAligned && i == kLoaded - 1)
                bits.words[i] = *reinterpret_cast<const u16*>(tile + places_[i]);
            else
                bits.words[i] = *reinterpret_cast<const u32*>(tile + places_[i]);
        }
        if constexpr (!Lane::kIsAligned)
            for (int i = 0; i < Lane::kWords; ++i)
                bits.words[i] = shift_right(bits.words[i], bits.words[i + 1], shift_);
        return bits;
    }

private:
    using Lane = LaneBits<kBits>;
    static constexpr int kMostShift = Lane::kIsAligned ? 0 : kBits % 2 == 0 ? 16 : 24;
    static constexpr int kLoaded = (Lane::kSpan + kMostShift + 31) / 32;
    static_assert(!Lane::kIsAligned || Lane::kSpan % 32 <= 16, "");

    int places_[kLoaded];
    u32 shift_;
};

// value + kOffset of a state, added to `base`.
TILEPRESS_DEVICE u32 byte_sum(u32 state, u32 base) {
    return dot_bytes(kMultiplier * state, 0x01010101u, base);
}

// The lane's eight values as float16: its A fragment.
template <class Window, int kBits>
TILEPRESS_DEVICE void decode_fragment(const LaneBits<kBits>& bits, u32 mask, u32 (&a)[4]) {
    for (int i = 0; i < 4; ++i) {
        u32 sums[2];
        for (int j = 0; j < 2; ++j) {
            u32 state = bits.state(2 * i + j);
            if constexpr (Window::kIsMasked) state &= mask;
            sums[j] = byte_sum(state, Float16::kInteger);
        }
        // 1024 + sum of bytes, as float16; then the sum less kOffset.
        constexpr u32 minus = 0x8000u | (Float16::kInteger + kOffset);
        a[i] = Float16::multiply_add(select_bytes(sums[0], sums[1], 0x5410u), Float16::kOnes, minus << 16 | minus);
    }
}

}  // namespace tilepress
