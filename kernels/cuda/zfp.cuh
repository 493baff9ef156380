// zfp streams of float32 panels, as kernels/layout/zfp.py and docs/codecs.md say: blocks of 4 x 4 values, each with an
// exponent and bit planes of 16 coefficients.
//
// Source: Lindstrom 2014, "Fixed-Rate Compressed Floating-Point Arrays"; the zfp 1.0 documentation.
#pragma once

#include "layout.cuh"

namespace tilepress {

constexpr int kZfpSide = 4;
constexpr int kZfpValues = kZfpSide * kZfpSide;
constexpr int kZfpPlanes = 32;
constexpr int kExponentBits = 8;
constexpr int kPrecisionBits = 5;  // of the number of planes of a reversible block
constexpr int kZfpBias = 127;
constexpr u32 kNegabinary = 0xaaaaaaaau;
constexpr int kUnlimited = 1 << 30;
// Where each value of a block, x + 4 y, stands in the order of coefficients (by total sequency): a nibble a value.
constexpr u64 kZfpOrder = 0xfec9da75b6328410ull;

// Bits of a payload from a position on, the lowest of a byte first; from `end` on they are 0. Nothing else is read.
class ZfpBits {
public:
    // The payload is aligned to 4 bytes, a whole number of words, and has at least `end` bits.
    TILEPRESS_DEVICE void open(const u8* payload, i64 begin, i64 end) {
        words_ = reinterpret_cast<const u32*>(payload);
        left_ = end - begin;
        next_ = begin / 32;
        filled_ = 0;
        buffer_ = 0;
        fill();
        const int skipped = static_cast<int>(begin % 32);
        buffer_ >>= skipped;
        filled_ -= skipped;
    }

    // The next 32 bits.
    TILEPRESS_DEVICE u32 window() {
        fill();
        return static_cast<u32>(buffer_) & (left_ >= 32 ? 0xffffffffu : left_ > 0 ? (1u << left_) - 1 : 0u);
    }

    // Go on by at most 32 bits, which the last window had.
    TILEPRESS_DEVICE void skip(int count) {
        buffer_ >>= count;
        filled_ -= count;
        left_ -= count;
    }

    // At most 16 bits.
    TILEPRESS_DEVICE u32 take(int count) {
        const u32 bits = window() & ((1u << count) - 1);
        skip(count);
        return bits;
    }

private:
    TILEPRESS_DEVICE void fill() {
        if (filled_ >= 32) return;
        // So many bits, of which the first `filled_` are in the buffer, are left.
        const u64 word = filled_ < left_ ? words_[next_] : 0u;
        buffer_ |= word << filled_;
        filled_ += 32;
        ++next_;
    }

    const u32* words_;
    u64 buffer_;
    i64 left_, next_;
    int filled_;
};

// A mode of variable length.
struct ZfpMode {
    int most_planes, least_exponent, is_reversible;
};

// What a block begins with.
struct ZfpHeader {
    int exponent;  // biased
    int planes;    // at most, 0 of a block of zeros
    bool is_raw;   // the integers are the bits of values, of a reversible block
};

TILEPRESS_DEVICE ZfpHeader lossy_header(ZfpBits& reader, const ZfpMode& mode) {
    ZfpHeader header{0, 0, false};
    if (reader.take(1) == 0) return header;
    header.exponent = static_cast<int>(reader.take(kExponentBits));
    // No more planes than the tolerance needs.
    const int needed = header.exponent - kZfpBias - mode.least_exponent + 2 * 3;
    header.planes = max(0, min(needed, min(mode.most_planes, kZfpPlanes)));
    return header;
}

TILEPRESS_DEVICE ZfpHeader reversible_header(ZfpBits& reader) {
    ZfpHeader header{0, 0, false};
    if (reader.take(1) == 0) return header;
    header.is_raw = reader.take(1) != 0;
    if (!header.is_raw) header.exponent = static_cast<int>(reader.take(kExponentBits));
    header.planes = static_cast<int>(reader.take(kPrecisionBits)) + 1;
    return header;
}

// Reads planes from the highest on, as many as `most_bits` bits hold, and gives each to `plane`: bit i is that of
// coefficient i. Returns how many there were.
//
// Of a plane, the first n bits are as they are, where n coefficients have been significant before; the others are runs
// of zeros, each behind a bit that says whether there is a one left.
template <class Plane>
TILEPRESS_DEVICE int read_planes(ZfpBits& reader, int most_bits, int planes, const Plane& plane) {
    int significant = 0, left = most_bits, count = 0;
    for (; count < planes && left > 0; ++count) {
        const int known = min(significant, left);
        u32 bits = reader.take(known);
        left -= known;
        while (significant < kZfpValues && left > 0) {
            --left;
            if (reader.take(1) == 0) break;
            // The last one of a run needs no bit where nothing else can come.
            const int most = min(kZfpValues - 1 - significant, left);
            const u32 run = reader.window() & ((1u << most) - 1);
            const int zeros = run != 0 ? __popc((run & (0u - run)) - 1) : most;
            const int taken = min(zeros + 1, most);
            reader.skip(taken);
            left -= taken;
            significant += zeros;
            bits |= 1u << significant++;
        }
        plane(bits);
    }
    return count;
}

// A coefficient after `planes` planes, whose lowest bit is that of the last one, as an integer.
TILEPRESS_DEVICE u32 integer_of(u32 coefficient, int planes) {
    const u32 negabinary = planes == 0 ? 0u : coefficient << (kZfpPlanes - planes);
    return (negabinary ^ kNegabinary) - kNegabinary;
}

// Half of a two's complement integer, rounded down.
TILEPRESS_DEVICE u32 halved(u32 value) {
    return static_cast<u32>(static_cast<int>(value) >> 1);
}

// Undo the lifting steps of four values of a line, modulo 2^32: those of the lossy modes, or differences.
TILEPRESS_DEVICE void lift_inverse(u32& x, u32& y, u32& z, u32& w) {
    y += halved(w), w -= halved(y);
    y += w, w += w, w -= y;
    z += x, x += x, x -= z;
    y += z, z += z, z -= y;
    w += x, x += x, x -= w;
}
TILEPRESS_DEVICE void difference_inverse(u32& x, u32& y, u32& z, u32& w) {
    w += z;
    z += y, w += z;
    y += x, z += y, w += z;
}

// 2^(biased - 127 - 30), of a biased exponent within 0..255, rounded to nearest.
TILEPRESS_DEVICE float zfp_scale(int biased) {
    return float_of_bits(biased > 30 ? static_cast<u32>(biased - 30) << 23 : biased >= 8 ? 1u << (biased - 8) : 0u);
}

TILEPRESS_DEVICE float scaled(u32 integer, int biased) {
    return multiply(zfp_scale(biased), static_cast<float>(static_cast<int>(integer)));
}

// Where a panel's stream lies in the payload, in bits. Nothing that lies in the parts is trusted.
struct ZfpStream {
    i64 begin, end;
    bool is_sound;

    TILEPRESS_DEVICE ZfpStream(i64 payload_bytes, const i64* offsets, i64 panel) {
        const i64 first = offsets[panel], last = offsets[panel + 1];
        is_sound = 0 <= first && first <= last && last <= payload_bytes;
        begin = is_sound ? 8 * first : 0;
        end = is_sound ? 8 * last : 0;
    }
};

// The 16 values of the panel's block `number`, of a fixed number of bits.
TILEPRESS_DEVICE void decode_fixed(const u8* payload, const ZfpStream& stream, i64 number, int bits,
                                   float (&values)[kZfpValues]) {
    ZfpBits reader;
    reader.open(payload, stream.begin + number * bits, stream.end);
    const ZfpHeader header = lossy_header(reader, {kZfpPlanes, -kUnlimited, 0});
    u32 block[kZfpValues] = {};
    const int planes = read_planes(reader, bits - 1 - kExponentBits, header.planes, [&](u32 plane) {
#pragma unroll
        for (int i = 0; i < kZfpValues; ++i) block[i] = block[i] << 1 | (plane >> (kZfpOrder >> (4 * i) & 15) & 1u);
    });
#pragma unroll
    for (int i = 0; i < kZfpValues; ++i) block[i] = integer_of(block[i], planes);
#pragma unroll
    for (int x = 0; x < kZfpSide; ++x) lift_inverse(block[x], block[x + 4], block[x + 8], block[x + 12]);
#pragma unroll
    for (int y = 0; y < kZfpValues; y += 4) lift_inverse(block[y], block[y + 1], block[y + 2], block[y + 3]);
#pragma unroll
    for (int i = 0; i < kZfpValues; ++i)
        values[i] = stream.is_sound ? scaled(block[i], header.exponent) : float_of_bits(0x7fffffffu);
}

}  // namespace tilepress
