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

// The planes of a block, a byte a value. Those of the last values may lie elsewhere, since some of them are cargo.
struct Planes {
    const std::uint8_t* of[kMostPlanes];
    const std::uint8_t* last[kMostPlanes];
    std::int64_t last_value;  // the first value that `last` has

    // Call function(planes from value `first` on, how many values) for `count` values, in their order.
    template <class Function>
    void over(std::int64_t first, std::int64_t count, const Function& function) const {
        const std::int64_t before = smaller(larger(last_value - first, 0), count);
        const std::uint8_t* from[kMostPlanes];
        for (int plane = 0; plane < kMostPlanes; ++plane) from[plane] = of[plane] + first;
        if (before > 0) function(from, before);
        if (before == count) return;
        for (int plane = 0; plane < kMostPlanes; ++plane) from[plane] = last[plane] + (first + before - last_value);
        function(from, count - before);
    }
};

// Values from the bytes of their planes, bit for bit.
inline void bf16_of_planes(const std::uint8_t* const* planes, std::int64_t count, std::uint16_t* to) {
    const std::uint8_t *first = planes[0], *second = planes[1];
    for (std::int64_t i = 0; i < count; ++i) {
        const auto turned = static_cast<std::uint16_t>(second[i] << 8 | first[i]);
        to[i] = static_cast<std::uint16_t>(turned >> 1 | turned << 15);
    }
}
inline void fp16_of_planes(const std::uint8_t* const* planes, std::int64_t count, std::uint16_t* to) {
    const std::uint8_t *first = planes[0], *second = planes[1], *third = planes[2];
    for (std::int64_t i = 0; i < count; ++i) {
        const auto upper = static_cast<std::uint8_t>(third[i] << 2 | second[i]);
        const auto turned = static_cast<std::uint16_t>(upper << 8 | first[i]);
        to[i] = static_cast<std::uint16_t>(turned >> 1 | turned << 15);
    }
}
inline void fp32_of_planes(const std::uint8_t* const* planes, std::int64_t count, std::uint32_t* to) {
    const std::uint8_t *first = planes[0], *second = planes[1], *third = planes[2], *fourth = planes[3];
    for (std::int64_t i = 0; i < count; ++i) {
        const auto turned = static_cast<std::uint16_t>(fourth[i] << 8 | third[i]);
        const auto upper = static_cast<std::uint16_t>(turned >> 1 | turned << 15);
        const auto lower = static_cast<std::uint16_t>(second[i] << 8 | first[i]);
        to[i] = std::uint32_t{upper} << 16 | lower;
    }
}

// `count` values from value `first` of a block on, bit for bit.
inline void values_of(Dtype dtype, const Planes& planes, std::int64_t first, std::int64_t count, void* to) {
    auto* words = static_cast<std::uint32_t*>(to);
    auto* halves = static_cast<std::uint16_t*>(to);
    planes.over(first, count, [&](const std::uint8_t* const* from, std::int64_t here) {
        switch (dtype) {
            case Dtype::bfloat16:
                bf16_of_planes(from, here, halves);
                halves += here;
                return;
            case Dtype::float16:
                fp16_of_planes(from, here, halves);
                halves += here;
                return;
            case Dtype::float32:
                fp32_of_planes(from, here, words);
                words += here;
        }
    });
}

// The same in float32. `to` has room for whole groups of 16.
template <class Set>
void floats_of(Dtype dtype, const Planes& planes, std::int64_t first, std::int64_t count, float* to) {
    if (dtype == Dtype::float32) return values_of(dtype, planes, first, count, to);
    alignas(64) std::uint16_t halves[kBlockColumns];
    values_of(dtype, planes, first, count, halves);
    for (std::int64_t i = 0; i < count; i += kSide)
        Set::store(to + i, dtype == Dtype::bfloat16 ? Set::load_bf16(halves + i) : Set::load_fp16(halves + i));
}

// A plane that is stored as it is and has fewer than 8 bits: field f of byte b of a plane of m bytes is value f m + b.
inline void unpack_plane(const std::uint8_t* from, int width, std::int64_t count, std::uint8_t* to) {
    int low = 0;
    for (int bits = 4; bits > 0; bits /= 2) {
        if (!(width & bits)) continue;
        const std::int64_t bytes = (count * bits + 7) / 8;
        for (int field = 0; field < 8 / bits; ++field) {
            const std::int64_t here = smaller(bytes, count - field * bytes);
            std::uint8_t* place = to + field * bytes;
            const int down = bits * field, mask = (1 << bits) - 1;
            if (low == 0)
                for (std::int64_t i = 0; i < here; ++i) place[i] = static_cast<std::uint8_t>(from[i] >> down & mask);
            else
                for (std::int64_t i = 0; i < here; ++i)
                    place[i] = static_cast<std::uint8_t>(place[i] | (from[i] >> down & mask) << low);
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

// A block on its way from bytes to planes: `open` finds its parts, streams are decoded, `close` puts in what they lack.
class Block {
public:
    static constexpr std::int64_t kNone = -1;

    // The stream of a plane, or one of 0 bytes.
    const RansStream& stream(int plane) const { return streams_[plane]; }
    std::int64_t number() const { return number_; }
    std::int64_t wanted() const { return wanted_; }
    const Planes& planes() const { return planes_; }

    // The first `wanted` of the `count` values of a block. False where the block is damaged.
    bool open(const Lossless& weight, std::int64_t number, std::int64_t count, std::int64_t wanted) {
        number_ = kNone;
        count_ = count;
        wanted_ = wanted;
        for (RansStream& stream : streams_) stream.size = 0;
        const std::int64_t begin = weight.offsets[number], end = weight.offsets[number + 1];
        if (begin < 0 || end < begin || end > weight.payload_bytes) return false;
        Bytes bytes(weight.payload + begin, weight.payload + end);
        const PlaneCodes& codes = weight.codes;
        const std::uint8_t* heads[kMostPlanes] = {};
        for (int plane = 0; plane < codes.cut.count; ++plane)
            if (codes.planes[plane].mode == PlaneMode::coded && (heads[plane] = bytes.take(kPlaneHead)) == nullptr)
                return false;
        const int top = codes.cut.count - 1;
        // Planes that values of this width lack are not read, but their addresses are moved with those of the others.
        for (int plane = top + 1; plane < kMostPlanes; ++plane) planes_.of[plane] = room_[plane];
        const bool has_cargo = codes.cargo() >= 0 && count >= kRansLanes && u16_at(heads[top]) != kStoredPlane;
        cargo_ = has_cargo ? codes.cargo() : -1;
        for (int plane = 0; plane <= top; ++plane)
            if (!open_plain(codes, plane, bytes)) return false;
        for (int plane = 0; plane <= top; ++plane)
            if (heads[plane] != nullptr && !open_coded(codes, plane, heads[plane], bytes)) return false;
        number_ = number;
        return true;
    }

    // After all streams have been decoded. False where the block is damaged.
    bool close() {
        if (number_ == kNone) return false;
        for (int plane = 0; plane < kMostPlanes; ++plane) {
            if (streams_[plane].size == 0) continue;
            for (std::int64_t i = 0; i < exceptions_[plane].count; ++i) {
                const std::int64_t position = u16_at(exceptions_[plane].positions + 2 * i);
                if (position >= count_) {
                    number_ = kNone;
                    return false;
                }
                room_[plane][position] = exceptions_[plane].symbols[i];
            }
        }
        planes_.last_value = cargo_ >= 0 ? count_ - kRansLanes : count_;
        if (cargo_ < 0) return true;
        for (int plane = 0; plane < kMostPlanes; ++plane) planes_.last[plane] = planes_.of[plane] + planes_.last_value;
        for (std::int64_t i = 0; i < kRansLanes; ++i) last_[i] = states_[(planes_.last_value + i) % kRansLanes];
        planes_.last[cargo_] = last_;
        return true;
    }

private:
    struct Exceptions {
        const std::uint8_t* positions;
        const std::uint8_t* symbols;
        std::int64_t count;
    };

    // Planes that are constant, or that the tensor stores as they are.
    bool open_plain(const PlaneCodes& codes, int plane, Bytes& bytes) {
        const PlaneCode& code = codes.planes[plane];
        planes_.of[plane] = room_[plane];
        if (code.mode == PlaneMode::constant)
            std::memset(room_[plane], code.constant, static_cast<std::size_t>(wanted_));
        if (code.mode != PlaneMode::stored) return true;
        if (plane != cargo_) return open_stored(codes, plane, bytes);
        planes_.of[plane] = bytes.take(count_ - kRansLanes);
        return planes_.of[plane] != nullptr;
    }

    bool open_stored(const PlaneCodes& codes, int plane, Bytes& bytes) {
        const int width = codes.cut.widths[plane];
        const std::uint8_t* stored = bytes.take(stored_bytes(width, count_));
        if (stored == nullptr) return false;
        if (width < 8) unpack_plane(stored, width, count_, room_[plane]);
        planes_.of[plane] = width < 8 ? room_[plane] : stored;
        return true;
    }

    bool open_coded(const PlaneCodes& codes, int plane, const std::uint8_t* head, Bytes& bytes) {
        const unsigned exceptions = u16_at(head);
        if (exceptions == kStoredPlane) return open_stored(codes, plane, bytes);
        const std::int64_t size = u16_at(head + 2);
        const std::uint8_t* stream = bytes.take(size);
        const std::uint8_t* positions = bytes.take(2 * static_cast<std::int64_t>(exceptions));
        const std::uint8_t* symbols = bytes.take(exceptions);
        if (size < kRansStateBytes || stream == nullptr || positions == nullptr || symbols == nullptr) return false;
        exceptions_[plane] = {positions, symbols, exceptions};
        // The cargo arrives only after the last symbol.
        const std::int64_t needed = wanted_ > count_ - kRansLanes ? count_ : wanted_;
        streams_[plane] = {stream, size, needed, room_[plane], plane == codes.cut.count - 1 ? states_ : spare_};
        return true;
    }

    alignas(64) std::uint8_t room_[kMostPlanes][kBlockValues];
    std::uint8_t states_[kRansLanes], spare_[kRansLanes], last_[kRansLanes];
    RansStream streams_[kMostPlanes];
    Exceptions exceptions_[kMostPlanes];
    Planes planes_;
    std::int64_t number_ = kNone, count_, wanted_;
    int cargo_;
};

// Where a block is: its number and its values.
struct BlockPlace {
    std::int64_t number;
    std::int64_t count;
};

// Decodes blocks two at a time, where it is told which one comes next. `Coders` gives each model its `Coder`
// (rans_decode.hpp):
//
//     static void decode(const RansModel&, const RansStream&)
//     static void decode(const RansModel&, const RansStream&, const RansStream&)
template <class Coders>
class BlockReader {
public:
    // The planes of the first `wanted` values of a block, which are there until the next call; null where the block is
    // damaged. `next`, of Block::kNone or all of it, will be read next.
    const Planes* read(const Lossless& weight, const BlockPlace& place, std::int64_t wanted, const BlockPlace& next) {
        Block &ready = blocks_[ahead_], &block = blocks_[1 - ahead_];
        if (ready.number() == place.number && ready.wanted() >= wanted) {
            ahead_ = 1 - ahead_;
            return &ready.planes();
        }
        const bool is_open = block.open(weight, place.number, place.count, wanted);
        const bool has_next = next.number != Block::kNone && ready.open(weight, next.number, next.count, next.count);
        for (int plane = 0; plane < weight.codes.cut.count; ++plane) {
            const RansModel& model = weight.codes.planes[plane].model;
            const bool here = is_open && block.stream(plane).size > 0;
            const bool there = has_next && ready.stream(plane).size > 0;
            if (here && there)
                Coders::decode(model, block.stream(plane), ready.stream(plane));
            else if (here || there)
                Coders::decode(model, (here ? block : ready).stream(plane));
        }
        if (has_next) ready.close();
        return block.close() ? &block.planes() : nullptr;
    }

private:
    Block blocks_[2];
    int ahead_ = 1;  // the block that may have been read already
};

}  // namespace
}  // namespace tilepress
