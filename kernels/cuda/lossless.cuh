// Blocks of `lossless`, version 2, as kernels/layout/lossless.py draws them: a warp decodes a block, 32 values a step.
#pragma once

#include "blocks.cuh"
#include "rans.cuh"

namespace tilepress {

constexpr int kBlockColumns = 1024;
constexpr int kTableHead = 16;
constexpr int kTablePlane = 2 * kRansEntries;
constexpr int kPlaneHead = 4;
constexpr u32 kStoredPlane = 0xffffu;  // the number of exceptions of a block that stores a plane as it is
constexpr int kExceptionBytes = 3;
constexpr int kMostPlanes = 4;
// Modes of planes.
constexpr int kConstant = 0, kAsItIs = 1, kCoded = 2;

// The sign from below the mantissa back to its place.
TILEPRESS_DEVICE u32 turned_back(u32 half) {
    return half >> 1 | (half & 1u) << 15;
}

// How a dtype is cut into planes: the bits of each, lowest first, and a value's bits from them.
struct Bfloat16Planes {
    using Dtype = Bfloat16;
    static constexpr int kPlanes = 2;
    static constexpr u32 kNan = 0x7fffu;
    static constexpr TILEPRESS_DEVICE int width(int) { return 8; }
    static TILEPRESS_DEVICE u32 bits(const u32 (&planes)[kPlanes]) { return turned_back(planes[1] << 8 | planes[0]); }
};

struct Float16Planes {
    using Dtype = Float16;
    static constexpr int kPlanes = 3;
    static constexpr u32 kNan = 0x7fffu;
    static constexpr TILEPRESS_DEVICE int width(int plane) { return plane == 0 ? 8 : plane == 1 ? 2 : 6; }
    static TILEPRESS_DEVICE u32 bits(const u32 (&planes)[kPlanes]) {
        return turned_back((planes[2] << 10 | planes[1] << 8 | planes[0]) & 0xffffu);
    }
};

struct Float32Planes {
    using Dtype = Float32;
    static constexpr int kPlanes = 4;
    static constexpr u32 kNan = 0x7fffffffu;
    static constexpr TILEPRESS_DEVICE int width(int) { return 8; }
    static TILEPRESS_DEVICE u32 bits(const u32 (&planes)[kPlanes]) {
        return turned_back(planes[3] << 8 | planes[2]) << 16 | planes[1] << 8 | planes[0];
    }
};

// A value of a plane of `width` < 8 bits that is stored as it is, in planes of 4, 2 and 1 bits: field f of byte b of m
// bytes is value f m + b.
TILEPRESS_DEVICE u32 packed_value(const u8* bytes, int width, int count, int i) {
    u32 value = 0;
    int low = 0;
#pragma unroll
    for (int bits = 4; bits > 0; bits /= 2) {
        if (!(width & bits)) continue;
        const int size = (count * bits + 7) / 8;
        int field = 0;
        for (int other = 1; other < 8 / bits; ++other) field += i >= other * size;
        value |= (bytes[i - field * size] >> (bits * field) & ((1u << bits) - 1)) << low;
        bytes += size;
        low += bits;
    }
    return value;
}

constexpr TILEPRESS_DEVICE int stored_bytes(int width, int count) {
    int bytes = 0;
    for (int bits = 8; bits > 0; bits /= 2)
        if (width & bits) bytes += (count * bits + 7) / 8;
    return bytes;
}

// Values of a coded plane that have no symbol, in rising order of their positions. All lanes go through all of them.
class Exceptions {
public:
    // `count` of them lie at `place` behind `base`.
    TILEPRESS_DEVICE void open(const u8* base, int place, int count) {
        position_ = place;
        symbol_place_ = place + 2 * count;
        last_ = symbol_place_ + count;
        load(base);
    }

    // The value of the lane's position, where it is one of them. Positions of all lanes are below `end`, and not below
    // that of the call before.
    TILEPRESS_DEVICE u32 replaced(const u8* base, int position, int end, u32 value) {
        while (next_ < end) {
            if (next_ == position) value = symbol_;
            load(base);
        }
        return value;
    }

private:
    static constexpr int kNone = 0x10000;

    TILEPRESS_DEVICE void load(const u8* base) {
        next_ = kNone;
        if (symbol_place_ == last_) return;
        next_ = static_cast<int>(u16_at(base + position_));
        symbol_ = base[symbol_place_++];
        position_ += 2;
    }

    int position_, symbol_place_, last_;  // where the next one lies
    int next_;
    u32 symbol_;
};

// What is read of a weight. Nothing that lies in its parts is trusted.
struct LosslessParts {
    const u8* payload;
    i64 payload_bytes;
    const i64* offsets;
    const u8* table;
};

// The slots of all planes, u32 [planes][256], to shared memory. The block meets here.
template <class Cut>
TILEPRESS_DEVICE const u32* share_slots(const u8* table, u8* shared) {
    auto* slots = reinterpret_cast<u32*>(shared);
    for (int plane = 0; plane < Cut::kPlanes; ++plane)
        slots[plane * kRansSlots + threadIdx.x] = rans_slot(table + kTableHead + plane * kTablePlane, threadIdx.x);
    __syncthreads();
    return slots;
}

// A block on its way, read by a warp. One whose parts do not fit into it is NaN.
template <class Cut>
class LosslessBlock {
public:
    // The block `number`, of `count` values; `slots` as share_slots left them.
    TILEPRESS_DEVICE LosslessBlock(const LosslessParts& parts, i64 number, int count, const u32* slots)
        : slots_(slots), count_(count), first_(0) {
        const i64 begin = parts.offsets[number], end = parts.offsets[number + 1];
        const bool is_within = 0 <= begin && begin <= end && end <= parts.payload_bytes;
        base_ = parts.payload + (is_within ? begin / 4 * 4 : 0);
        const int skipped = static_cast<int>(begin % 4);
        const int bytes = is_within ? static_cast<int>(min(end - begin, kMostBytes)) : 0;
        int places[kPlanes], sizes[kPlanes];
        u32 exceptions[kPlanes];
        int cargo_plane = -1;
        const bool is_sound =
            is_within && find(base_ + skipped, bytes, parts.table, places, sizes, exceptions, cargo_plane);
        always_ = is_sound ? 0u : Cut::kNan;
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
            Plane& to = planes_[plane];
            const int from = is_sound ? skipped + places[plane] : 0;
            const bool is_coded = is_sound && exceptions[plane] != kStoredPlane;
            const bool is_stored = is_sound && !is_coded && parts.table[plane] != kConstant;
            to.takes_cargo = plane == cargo_plane;
            to.constant = is_sound && parts.table[plane] == kConstant ? parts.table[kMostPlanes + plane] : 0u;
            to.packed = is_stored && Cut::width(plane) < 8 ? from : kNone;
            to.exceptions.open(base_, from + sizes[plane], is_coded ? static_cast<int>(exceptions[plane]) : 0);
            if (is_coded)
                to.symbols.open_stream(base_, from, sizes[plane]);
            else
                to.symbols.open_bytes(base_, from, is_stored && Cut::width(plane) == 8 ? sizes[plane] : 0);
        }
    }

    // The bits of the lane's next value; anything behind its last one. The warp meets here.
    TILEPRESS_DEVICE u32 step() {
        const int position = first_ + lane_number();
        const bool is_there = position < count_;
        first_ += 32;
        u32 values[kPlanes];
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
            Plane& from = planes_[plane];
            const u32 symbol = from.symbols.next(base_, slots_ + plane * kRansSlots, is_there);
            values[plane] = from.exceptions.replaced(base_, position, first_, symbol) | from.constant;
            if (Cut::width(plane) < 8 && from.packed != kNone && is_there)
                values[plane] = packed_value(base_ + from.packed, Cut::width(plane), count_, position);
        }
        // A lane's last value comes with its last state.
        const bool is_last = position + kRansLanes >= count_;
#pragma unroll
        for (int plane = 0; plane < kTop; ++plane)
            if (planes_[plane].takes_cargo && is_last) values[plane] = planes_[kTop].symbols.cargo();
        return Cut::bits(values) | always_;
    }

private:
    static constexpr int kPlanes = Cut::kPlanes, kTop = kPlanes - 1;
    static constexpr i64 kMostBytes = 1 << 24;  // more than heads can ask for
    static constexpr int kNone = -1;

    struct Plane {
        bool takes_cargo;
        u32 constant;
        int packed;  // where it lies, where it is
        Symbols symbols;
        Exceptions exceptions;
    };

    // Where each plane begins in the block, which has so many bytes; of whole bytes or of a stream, how many; its
    // exceptions, kStoredPlane where it is not coded; the plane whose last values are cargo. False where the block is
    // damaged.
    TILEPRESS_DEVICE bool find(const u8* block, int bytes, const u8* table, int (&places)[kPlanes],
                               int (&sizes)[kPlanes], u32 (&exceptions)[kPlanes], int& cargo_plane) const {
        bool is_sound = true;
        int place = 0;
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
            const bool is_coded = table[plane] == kCoded;
            const bool has_head = is_coded && place + kPlaneHead <= bytes;
            exceptions[plane] = has_head ? u16_at(block + place) : kStoredPlane;
            sizes[plane] = has_head ? static_cast<int>(u16_at(block + place + 2)) : 0;
            is_sound = is_sound && table[plane] <= kCoded && has_head == is_coded;
            place += is_coded ? kPlaneHead : 0;
        }
#pragma unroll
        for (int plane = kTop - 1; plane >= 0; --plane)
            if (table[plane] == kAsItIs && Cut::width(plane) == 8 && exceptions[kTop] != kStoredPlane &&
                count_ >= kRansLanes)
                cargo_plane = plane;
        // Planes that the tensor stores as they are come first.
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
            const int values = plane == cargo_plane ? count_ - kRansLanes : count_;
            places[plane] = place;
            if (exceptions[plane] == kStoredPlane) sizes[plane] = stored_bytes(Cut::width(plane), values);
            if (table[plane] == kAsItIs) place += sizes[plane];
        }
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
            if (table[plane] != kCoded) continue;
            const bool has_stream = exceptions[plane] != kStoredPlane;
            is_sound = is_sound && !(has_stream && sizes[plane] < kRansStateBytes);
            places[plane] = place;
            place += sizes[plane] + (has_stream ? kExceptionBytes * static_cast<int>(exceptions[plane]) : 0);
        }
        return is_sound && place <= bytes;
    }

    const u8* base_;  // of the block, aligned to 4 bytes
    const u32* slots_;
    int count_, first_;
    u32 always_;  // set in the bits of all values
    Plane planes_[kPlanes];
};

}  // namespace tilepress
