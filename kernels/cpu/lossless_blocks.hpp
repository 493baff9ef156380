// Reading blocks of `lossless` (lossless.hpp): from bytes to planes, and from planes to values.
#pragma once

#include <cstring>

#include "arithmetic.hpp"
#include "floats.hpp"
#include "lossless.hpp"
#include "product_values.hpp"
#include "rans_decode.hpp"

namespace tilepress {
namespace {

// The planes of a block, a byte a value.
struct Planes {
    const std::uint8_t* of[kMostPlanes];
};

// Values of two bytes from the planes of bfloat16 and float16.
inline std::uint16_t bf16_at(const Planes& planes, std::int64_t i) {
    const unsigned turned = unsigned{planes.of[1][i]} << 8 | planes.of[0][i];
    return static_cast<std::uint16_t>(turned >> 1 | turned << 15);
}
inline std::uint16_t fp16_at(const Planes& planes, std::int64_t i) {
    const unsigned turned = unsigned{planes.of[2][i]} << 10 | unsigned{planes.of[1][i]} << 8 | planes.of[0][i];
    return static_cast<std::uint16_t>(turned >> 1 | turned << 15);
}
inline std::uint32_t fp32_at(const Planes& planes, std::int64_t i) {
    const unsigned turned = unsigned{planes.of[3][i]} << 8 | planes.of[2][i];
    const std::uint32_t upper = (turned >> 1 | turned << 15) & 0xffffu;
    return upper << 16 | std::uint32_t{planes.of[1][i]} << 8 | planes.of[0][i];
}

// `count` values from value `first` of a block on, bit for bit.
inline void values_of(Dtype dtype, const Planes& planes, std::int64_t first, std::int64_t count, void* to) {
    auto* words = static_cast<std::uint32_t*>(to);
    auto* halves = static_cast<std::uint16_t*>(to);
    switch (dtype) {
        case Dtype::bfloat16:
            for (std::int64_t i = 0; i < count; ++i) halves[i] = bf16_at(planes, first + i);
            return;
        case Dtype::float16:
            for (std::int64_t i = 0; i < count; ++i) halves[i] = fp16_at(planes, first + i);
            return;
        case Dtype::float32:
            for (std::int64_t i = 0; i < count; ++i) words[i] = fp32_at(planes, first + i);
    }
}

// The same in float32. `to` has room for whole groups of 16.
template <class Set>
void floats_of(Dtype dtype, const Planes& planes, std::int64_t first, std::int64_t count, float* to) {
    if (dtype == Dtype::float32) {
        for (std::int64_t i = 0; i < count; ++i) to[i] = float_of_bits(fp32_at(planes, first + i));
        return;
    }
    alignas(64) std::uint16_t halves[kBlockColumns];
    values_of(dtype, planes, first, count, halves);
    for (std::int64_t i = 0; i < count; i += kSide)
        Set::store(to + i, dtype == Dtype::bfloat16 ? Set::load_bf16(halves + i) : Set::load_fp16(halves + i));
}

// A plane that is stored as it is and has fewer than 8 bits: field f of byte b of a plane of m bytes is value f m + b.
inline void unpack_plane(const std::uint8_t* from, int width, std::int64_t count, std::uint8_t* to) {
    std::memset(to, 0, static_cast<std::size_t>(count));
    int low = 0;
    for (int bits = 4; bits > 0; bits /= 2) {
        if (!(width & bits)) continue;
        const std::int64_t bytes = (count * bits + 7) / 8;
        for (int field = 0; field < 8 / bits; ++field) {
            const std::int64_t here = smaller(bytes, count - field * bytes);
            std::uint8_t* place = to + field * bytes;
            for (std::int64_t i = 0; i < here; ++i)
                place[i] =
                    static_cast<std::uint8_t>(place[i] | ((from[i] >> (bits * field)) & ((1 << bits) - 1)) << low);
        }
        from += bytes;
        low += bits;
    }
}

// Bytes that are taken one after the other, never more than there are.
class Bytes {
public:
    Bytes(const std::uint8_t* begin, const std::uint8_t* end) : place_(begin), end_(end) {}

    // The next `count` bytes, or null.
    const std::uint8_t* take(std::int64_t count) {
        if (end_ - place_ < count) return nullptr;
        place_ += count;
        return place_ - count;
    }

private:
    const std::uint8_t* place_;
    const std::uint8_t* end_;
};

inline unsigned u16_at(const std::uint8_t* bytes) {
    return bytes[0] | unsigned{bytes[1]} << 8;
}

// Decodes one block at a time. `Coders` gives each model its `Coder` (rans_decode.hpp):
//
//     static void decode(const RansModel&, const RansStream&)
template <class Coders>
class BlockReader {
public:
    // The planes of the first `wanted` of a block's `count` values, which are there until the next call. False where
    // the block is damaged.
    bool read(const Lossless& weight, std::int64_t number, std::int64_t count, std::int64_t wanted, Planes& planes) {
        const std::int64_t begin = weight.offsets[number], end = weight.offsets[number + 1];
        if (begin < 0 || end < begin || end > weight.payload_bytes) return false;
        Bytes bytes(weight.payload + begin, weight.payload + end);
        const PlaneCodes& codes = weight.codes;
        const std::uint8_t* heads[kMostPlanes] = {};
        for (int plane = 0; plane < codes.cut.count; ++plane)
            if (codes.planes[plane].mode == PlaneMode::coded && (heads[plane] = bytes.take(kPlaneHead)) == nullptr)
                return false;
        const int top = codes.cut.count - 1;
        const bool has_cargo = codes.cargo() >= 0 && count >= kRansLanes && u16_at(heads[top]) != kStoredPlane;
        const int cargo = has_cargo ? codes.cargo() : -1;
        for (int plane = 0; plane <= top; ++plane)
            if (!read_plain(codes, plane, count, wanted, plane == cargo, bytes, planes)) return false;
        for (int plane = 0; plane <= top; ++plane)
            if (heads[plane] != nullptr && !read_coded(codes, plane, count, wanted, heads[plane], bytes, planes))
                return false;
        if (has_cargo && wanted > count - kRansLanes)
            for (std::int64_t i = count - kRansLanes; i < count; ++i) room_[cargo][i] = cargo_[i % kRansLanes];
        return true;
    }

private:
    // Planes that are constant, or that the tensor stores as they are.
    bool read_plain(const PlaneCodes& codes, int plane, std::int64_t count, std::int64_t wanted, bool is_cargo,
                    Bytes& bytes, Planes& planes) {
        const PlaneCode& code = codes.planes[plane];
        if (code.mode == PlaneMode::constant) {
            std::memset(room_[plane], code.constant, static_cast<std::size_t>(wanted));
            planes.of[plane] = room_[plane];
        }
        if (code.mode != PlaneMode::stored) return true;
        if (!is_cargo) return read_stored(codes, plane, count, bytes, planes);
        const std::uint8_t* stored = bytes.take(count - kRansLanes);
        if (stored == nullptr) return false;
        planes.of[plane] = stored;
        if (wanted <= count - kRansLanes) return true;
        std::memcpy(room_[plane], stored, static_cast<std::size_t>(count - kRansLanes));
        planes.of[plane] = room_[plane];
        return true;
    }

    bool read_stored(const PlaneCodes& codes, int plane, std::int64_t count, Bytes& bytes, Planes& planes) {
        const int width = codes.cut.widths[plane];
        const std::uint8_t* stored = bytes.take(stored_bytes(width, count));
        if (stored == nullptr) return false;
        if (width < 8) unpack_plane(stored, width, count, room_[plane]);
        planes.of[plane] = width < 8 ? room_[plane] : stored;
        return true;
    }

    bool read_coded(const PlaneCodes& codes, int plane, std::int64_t count, std::int64_t wanted,
                    const std::uint8_t* head, Bytes& bytes, Planes& planes) {
        const unsigned exceptions = u16_at(head);
        if (exceptions == kStoredPlane) return read_stored(codes, plane, count, bytes, planes);
        const std::int64_t size = u16_at(head + 2);
        const std::uint8_t* stream = bytes.take(size);
        const std::uint8_t* positions = bytes.take(2 * static_cast<std::int64_t>(exceptions));
        const std::uint8_t* symbols = bytes.take(exceptions);
        if (size < kRansStateBytes || stream == nullptr || positions == nullptr || symbols == nullptr) return false;
        // The cargo arrives only after the last symbol.
        const std::int64_t needed = wanted > count - kRansLanes ? count : wanted;
        Coders::decode(codes.planes[plane].model, {stream, size, needed, room_[plane], cargo_});
        for (unsigned i = 0; i < exceptions; ++i) {
            const std::int64_t position = u16_at(positions + 2 * i);
            if (position >= count) return false;
            room_[plane][position] = symbols[i];
        }
        planes.of[plane] = room_[plane];
        return true;
    }

    alignas(64) std::uint8_t room_[kMostPlanes][kBlockValues];
    std::uint8_t cargo_[kRansLanes];
};

}  // namespace
}  // namespace tilepress
