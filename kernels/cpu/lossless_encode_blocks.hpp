// Writing blocks of `lossless` (lossless_encode.hpp): from values to planes, and from planes to bytes.
//
// `Pushers` gives each model its `Pusher` (rans_encode.hpp):
//
//     static void with(const RansModel&, const Function&)     calls function(pusher)
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>

#include "arithmetic.hpp"
#include "lossless_cut.hpp"
#include "lossless_encode.hpp"
#include "rans_encode.hpp"

namespace tilepress {
namespace {

// The plane as it is, see `unpack_plane`.
inline std::uint8_t* store_plane(const std::uint8_t* plane, int width, std::int64_t count, std::uint8_t* to) {
    if (width == 8) return std::copy_n(plane, count, to);
    int low = 0;
    for (int bits = 4; bits > 0; bits /= 2) {
        if (!(width & bits)) continue;
        const std::int64_t bytes = (count * bits + 7) / 8;
        std::memset(to, 0, static_cast<std::size_t>(bytes));
        for (int field = 0; field < 8 / bits; ++field) {
            const std::int64_t here = smaller(bytes, count - field * bytes);
            const std::uint8_t* from = plane + field * bytes;
            for (std::int64_t i = 0; i < here; ++i)
                to[i] = static_cast<std::uint8_t>(to[i] | ((from[i] >> low) & ((1 << bits) - 1)) << (bits * field));
        }
        to += bytes;
        low += bits;
    }
    return to;
}

inline void write_u16(std::int64_t value, std::uint8_t* to) {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}

// A coded plane of a block: the stream and what it leaves aside.
class CodedPlane {
public:
    // Encode `plane`. False where that isn't smaller than `stored` bytes.
    template <class Pusher>
    bool encode(const RansModel& model, const Pusher& pusher, const std::uint8_t* plane, std::int64_t count,
                const std::uint8_t* cargo, std::int64_t stored) {
        plane_ = plane;
        rans_find(pusher, plane, count, entries_, exceptions_);
        const std::int64_t aside = exceptions_.count * kExceptionBytes;
        if (aside + kRansStateBytes >= stored) return false;
        stream_ = rans_encode(model, pusher, entries_, count, cargo, room_);
        stream_bytes_ = room_ + kRansStateBytes + count - stream_;
        return stream_bytes_ + aside < stored;
    }

    void write_head(std::uint8_t* to) const {
        write_u16(exceptions_.count, to);
        write_u16(stream_bytes_, to + 2);
    }

    std::uint8_t* write(std::uint8_t* to) const {
        to = std::copy_n(stream_, stream_bytes_, to);
        for (std::int64_t i = 0; i < exceptions_.count; ++i, to += 2) write_u16(positions_[i], to);
        for (std::int64_t i = 0; i < exceptions_.count; ++i) *to++ = plane_[positions_[i]];
        return to;
    }

private:
    alignas(64) std::uint8_t entries_[kBlockValues];
    std::uint8_t room_[kRansStateBytes + kBlockValues];
    std::uint16_t positions_[kBlockValues];
    RansExceptions exceptions_{positions_, 0};
    const std::uint8_t* plane_;
    const std::uint8_t* stream_;
    std::int64_t stream_bytes_;
};

template <class Pushers>
class BlockWriter {
public:
    explicit BlockWriter(const PlaneCodes& codes) : codes_(codes) {}

    // A block of `rows` x `width` values, whose rows are `stride` values apart; returns the bytes written.
    std::int64_t write(const std::uint8_t* values, std::int64_t rows, std::int64_t width, std::int64_t stride,
                       std::uint8_t* to) {
        const std::uint8_t* const begin = to;
        const std::int64_t size = size_of(codes_.dtype), count = rows * width;
        if (width == stride)
            cut_values(codes_.dtype, values, count, planes_, 0);
        else
            for (std::int64_t row = 0; row < rows; ++row)
                cut_values(codes_.dtype, values + row * stride * size, width, planes_, row * width);
        const int top = codes_.cut.count - 1;
        int cargo = count >= kRansLanes ? codes_.cargo() : -1;
        bool is_coded[kMostPlanes] = {};
        for (int plane = 0; plane <= top; ++plane) {
            if (codes_.planes[plane].mode != PlaneMode::coded) continue;
            is_coded[plane] = encode(plane, count, plane == top ? cargo : -1);
            if (is_coded[plane]) {
                coded_[plane].write_head(to);
            } else {
                write_u16(kStoredPlane, to);
                write_u16(0, to + 2);
            }
            to += kPlaneHead;
        }
        if (!is_coded[top]) cargo = -1;
        for (int plane = 0; plane <= top; ++plane)
            if (codes_.planes[plane].mode == PlaneMode::stored)
                to = store(plane, plane == cargo ? count - kRansLanes : count, to);
        for (int plane = 0; plane <= top; ++plane)
            if (codes_.planes[plane].mode == PlaneMode::coded)
                to = is_coded[plane] ? coded_[plane].write(to) : store(plane, count, to);
        while ((to - begin) % kBlockAlignment != 0) *to++ = 0;
        return to - begin;
    }

private:
    // `cargo` is the plane whose last values the stream takes along, or -1.
    bool encode(int plane, std::int64_t count, int cargo) {
        std::uint8_t cargo_bytes[kRansLanes] = {};
        if (cargo >= 0)
            for (std::int64_t i = count - kRansLanes; i < count; ++i)
                cargo_bytes[i % kRansLanes] = planes_.of[cargo][i];
        const RansModel& model = codes_.planes[plane].model;
        const std::int64_t stored = stored_bytes(codes_.cut.widths[plane], count);
        bool is_coded = false;
        Pushers::with(model, [&](const auto& pusher) {
            is_coded = coded_[plane].encode(model, pusher, planes_.of[plane], count, cargo_bytes, stored);
        });
        return is_coded;
    }

    std::uint8_t* store(int plane, std::int64_t count, std::uint8_t* to) const {
        return store_plane(planes_.of[plane], codes_.cut.widths[plane], count, to);
    }

    const PlaneCodes& codes_;
    PlaneRoom planes_ = {};
    CodedPlane coded_[kMostPlanes];
};

template <class Pushers>
void encode_lossless(const LosslessMatrix& matrix, Range range, std::uint8_t* to, std::int64_t* sizes) {
    const auto writer = std::make_unique<BlockWriter<Pushers>>(matrix.codes);
    const std::int64_t across = matrix.blocks_across();
    for (std::int64_t number = range.first; number < range.last; ++number) {
        const std::int64_t row = number / across * kSide, column = number % across * kBlockColumns;
        const auto* values = static_cast<const std::uint8_t*>(matrix.values) +
                             (row * matrix.columns + column) * size_of(matrix.codes.dtype);
        sizes[number] = writer->write(values, smaller(kSide, matrix.rows - row),
                                      smaller(kBlockColumns, matrix.columns - column), matrix.columns, to);
        to += sizes[number];
    }
}

}  // namespace
}  // namespace tilepress
