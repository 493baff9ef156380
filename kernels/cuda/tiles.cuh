// Fixed-rate tiles (`int`, `nf4`, `fp8`, `mxfp4`, `nvfp4`) as kernels/layout/tiles.py draws them: what all kernels
// read.
//
// A code is a type with `kBits` and either `kIsBook` and `book(code)`, 16 values that are copied to shared memory,
// where each lies in a bank of its own, or `value(code)`. `kFitsElement`: values are exact in any 16-bit dtype. A scale
// format is a type with `scale(scales, place, global_scale)`.
#pragma once

#include "layout.cuh"

namespace tilepress {

template <int kBits_>
struct Integer {
    static constexpr int kBits = kBits_;
    static constexpr bool kIsInteger = true, kIsBook = false, kFitsElement = true;
    static TILEPRESS_DEVICE float value(u32 code) { return static_cast<float>(static_cast<int>(code)); }
};

struct Nf4 {
    static constexpr int kBits = 4;
    static constexpr bool kIsInteger = false, kIsBook = true, kFitsElement = false;
    static TILEPRESS_DEVICE float book(int code) {
        static constexpr float values[16] = {-1.0f,
                                             -0.6961928009986877f,
                                             -0.5250730514526367f,
                                             -0.39491748809814453f,
                                             -0.28444138169288635f,
                                             -0.18477343022823334f,
                                             -0.09105003625154495f,
                                             0.0f,
                                             0.07958029955625534f,
                                             0.16093020141124725f,
                                             0.24611230194568634f,
                                             0.33791524171829224f,
                                             0.44070982933044434f,
                                             0.5626170039176941f,
                                             0.7229568362236023f,
                                             1.0f};
        return values[code];
    }
};

struct E2m1 {
    static constexpr int kBits = 4;
    static constexpr bool kIsInteger = false, kIsBook = true, kFitsElement = true;
    static TILEPRESS_DEVICE float book(int code) {
        static constexpr float values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
        return values[code];
    }
};

struct E4m3 {
    static constexpr int kBits = 8;
    static constexpr bool kIsInteger = false, kIsBook = false, kFitsElement = true;
    static TILEPRESS_DEVICE float value(u32 code) {
        // As a half, whose exponent is too small by 8.
        const u32 half = (code & 0x7fu) << 7 | (code & 0x80u) << 8;
        const float finite = float_of_fp16(static_cast<u16>(half)) * 256.0f;
        return (code & 0x7fu) == 0x7fu ? float_of_bits(0x7fc00000u) : finite;
    }
};

struct E5m2 {
    static constexpr int kBits = 8;
    static constexpr bool kIsInteger = false, kIsBook = false, kFitsElement = true;
    static TILEPRESS_DEVICE float value(u32 code) { return float_of_fp16(static_cast<u16>(code << 8)); }
};

struct Bfloat16Scale {
    static TILEPRESS_DEVICE float scale(const u8* scales, i64 place, const float*) {
        return Bfloat16::load(reinterpret_cast<const u16*>(scales)[place]);
    }
};

struct E8m0Scale {
    static TILEPRESS_DEVICE float scale(const u8* scales, i64 place, const float*) {
        const u32 byte = scales[place];
        const u32 tail = byte == 0 || byte == 255 ? 1u << 22 : 0u;  // of a subnormal number, or of NaN
        return float_of_bits(byte << 23 | tail);
    }
};

struct E4m3Scale {
    static TILEPRESS_DEVICE float scale(const u8* scales, i64 place, const float* global_scale) {
        return multiply(E4m3::value(scales[place]), *global_scale);
    }
};

// Which four columns of a tile lane t of four takes.
//
// 4 t to 4 t + 3.
struct Neighbours {
    static TILEPRESS_DEVICE u32 load(const u8* row, int t) { return reinterpret_cast<const u32*>(row)[t]; }
};
// 2 t, 2 t + 1, 2 t + 8 and 2 t + 9: the order of the fragments of mma.m16n8k16.
struct Pairs {
    static TILEPRESS_DEVICE u32 load(const u8* row, int t) {
        const auto* pairs = reinterpret_cast<const u16*>(row);
        return pairs[t] | static_cast<u32>(pairs[t + 4]) << 16;
    }
};

// Of a plane of 4, 2 or 1 bits, four columns: row's codes are the lowest bits of each byte, those of row + 8 are four
// bits above.
template <int kBits, class Columns>
TILEPRESS_DEVICE u32 plane_word(const u8* plane, int row, int t) {
    return Columns::load(plane + kSide * (row % (2 * kBits)), t) >> (kBits * (row / (2 * kBits)));
}

// Four codes of rows `row`, below 8, and row + 8, a byte each.
template <int kBits, class Columns = Neighbours>
TILEPRESS_DEVICE void read_codes(const u8* tile, int row, int t, u32& upper, u32& lower) {
    if constexpr (kBits == 8) {
        upper = Columns::load(tile + kSide * row, t);
        lower = Columns::load(tile + kSide * (row + 8), t);
    } else {
        upper = lower = 0;
        if constexpr (kBits & 4) {
            const u32 word = plane_word<4, Columns>(tile, row, t);
            upper = word & 0x0f0f0f0fu;
            lower = word >> 4 & 0x0f0f0f0fu;
        }
        if constexpr (kBits & 2) {
            const u32 word = plane_word<2, Columns>(tile + 32 * (kBits & 4), row, t);
            upper |= (word & 0x03030303u) << (kBits & 4);
            lower |= (word >> 4 & 0x03030303u) << (kBits & 4);
        }
        if constexpr (kBits & 1) {
            const u32 word = plane_word<1, Columns>(tile + 32 * (kBits & 6), row, t);
            upper |= (word & 0x01010101u) << (kBits & 6);
            lower |= (word >> 4 & 0x01010101u) << (kBits & 6);
        }
    }
}

}  // namespace tilepress
