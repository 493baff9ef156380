#include "lossless_encode.hpp"

#include <algorithm>
#include <cstring>

namespace tilepress {
namespace {

// A plane is coded where that takes less than this of its bits: decoding costs time.
constexpr double kWorthCoding = 0.97;
// Values whose bytes are counted at a time.
constexpr std::int64_t kCountedValues = 4096;

struct PlaneRoom {
    std::uint8_t of[kMostPlanes][kBlockValues];
};

unsigned turned(unsigned half) {
    return (half << 1 | half >> 15) & 0xffffu;
}

// Cut `count` consecutive values into planes, from place `to` on.
void cut(Dtype dtype, const void* values, std::int64_t count, PlaneRoom& planes, std::int64_t to) {
    const auto* halves = static_cast<const std::uint16_t*>(values);
    const auto* words = static_cast<const std::uint32_t*>(values);
    std::uint8_t* const first = planes.of[0] + to;
    std::uint8_t* const second = planes.of[1] + to;
    std::uint8_t* const third = planes.of[2] + to;
    std::uint8_t* const fourth = planes.of[3] + to;
    switch (dtype) {
        case Dtype::bfloat16:
            for (std::int64_t i = 0; i < count; ++i) {
                first[i] = static_cast<std::uint8_t>(turned(halves[i]));
                second[i] = static_cast<std::uint8_t>(turned(halves[i]) >> 8);
            }
            return;
        case Dtype::float16:
            for (std::int64_t i = 0; i < count; ++i) {
                first[i] = static_cast<std::uint8_t>(turned(halves[i]));
                second[i] = static_cast<std::uint8_t>(turned(halves[i]) >> 8 & 3);
                third[i] = static_cast<std::uint8_t>(turned(halves[i]) >> 10);
            }
            return;
        case Dtype::float32:
            for (std::int64_t i = 0; i < count; ++i) {
                first[i] = static_cast<std::uint8_t>(words[i]);
                second[i] = static_cast<std::uint8_t>(words[i] >> 8);
                third[i] = static_cast<std::uint8_t>(turned(words[i] >> 16));
                fourth[i] = static_cast<std::uint8_t>(turned(words[i] >> 16) >> 8);
            }
    }
}

// The plane as it is, see `unpack_plane`.
std::uint8_t* store_plane(const std::uint8_t* plane, int width, std::int64_t count, std::uint8_t* to) {
    int low = 0;
    for (int bits = 8; bits > 0; bits /= 2) {
        if (!(width & bits)) continue;
        const std::int64_t bytes = (count * bits + 7) / 8;
        std::memset(to, 0, static_cast<std::size_t>(bytes));
        for (int field = 0; field < 8 / bits; ++field)
            for (std::int64_t i = field * bytes; i < std::min(count, (field + 1) * bytes); ++i)
                to[i - field * bytes] = static_cast<std::uint8_t>(
                    to[i - field * bytes] | ((plane[i] >> low) & ((1 << bits) - 1)) << (bits * field));
        to += bytes;
        low += bits;
    }
    return to;
}

void write_u16(std::int64_t value, std::uint8_t* to) {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}

// A coded plane of a block: the stream and what it leaves aside.
struct CodedPlane {
    std::uint8_t room[kRansStateBytes + kBlockValues];
    std::uint8_t positions[2 * kBlockValues];
    std::uint8_t symbols[kBlockValues];
    const std::uint8_t* stream;
    std::int64_t stream_bytes;
    std::int64_t exceptions;

    // Encode `plane`, which loses its exceptions. False where that isn't smaller than `stored` bytes.
    bool encode(const RansEncoder& encoder, std::uint8_t* plane, std::int64_t count, const std::uint8_t* cargo,
                std::int64_t stored) {
        exceptions = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            if (encoder.has_entry(plane[i])) continue;
            write_u16(i, positions + 2 * exceptions);
            symbols[exceptions++] = plane[i];
        }
        if (exceptions * kExceptionBytes + kRansStateBytes >= stored) return false;
        for (std::int64_t i = 0; i < exceptions; ++i)
            plane[positions[2 * i] | positions[2 * i + 1] << 8] = encoder.stand_in();
        stream = encoder.encode(plane, count, cargo, room);
        stream_bytes = room + kRansStateBytes + count - stream;
        if (stream_bytes + exceptions * kExceptionBytes < stored) return true;
        for (std::int64_t i = 0; i < exceptions; ++i) plane[positions[2 * i] | positions[2 * i + 1] << 8] = symbols[i];
        return false;
    }

    std::uint8_t* write(std::uint8_t* to) const {
        to = std::copy_n(stream, stream_bytes, to);
        to = std::copy_n(positions, 2 * exceptions, to);
        return std::copy_n(symbols, exceptions, to);
    }
};

}  // namespace

void count_planes(Dtype dtype, const void* values, std::int64_t count, std::int64_t* counts) {
    const PlaneCut planes = cut_of(dtype);
    PlaneRoom room;
    // Several counters, since neighbours that are alike would wait for each other.
    constexpr int counters = 4;
    std::uint32_t counted[kMostPlanes][counters][256] = {};
    static_assert(kCountedValues <= kBlockValues);
    for (std::int64_t first = 0; first < count; first += kCountedValues) {
        const std::int64_t here = std::min(kCountedValues, count - first);
        cut(dtype, static_cast<const std::uint8_t*>(values) + first * size_of(dtype), here, room, 0);
        for (int plane = 0; plane < planes.count; ++plane)
            for (std::int64_t i = 0; i < here; ++i) ++counted[plane][i % counters][room.of[plane][i]];
    }
    for (int plane = 0; plane < planes.count; ++plane)
        for (int counter = 0; counter < counters; ++counter)
            for (int symbol = 0; symbol < 256; ++symbol)
                counts[256 * plane + symbol] += counted[plane][counter][symbol];
}

void write_table(Dtype dtype, const std::int64_t* counts, std::uint8_t* table) {
    const PlaneCut planes = cut_of(dtype);
    std::memset(table, 0, static_cast<std::size_t>(kTableHead + planes.count * kTablePlane));
    for (int plane = 0; plane < planes.count; ++plane, counts += 256) {
        double total = 0;
        int different = 0, some = 0;
        for (int symbol = 0; symbol < 256; ++symbol) {
            if (counts[symbol] == 0) continue;
            ++different;
            some = symbol;
            total += static_cast<double>(counts[symbol]);
        }
        PlaneMode mode = different <= 1 ? PlaneMode::constant : PlaneMode::stored;
        RansModel model;
        if (different > 1 && fit_rans_model(counts, model) < kWorthCoding * planes.widths[plane] * total) {
            mode = PlaneMode::coded;
            std::uint8_t* entries = table + kTableHead + plane * kTablePlane;
            std::copy_n(model.symbols, kRansEntries, entries);
            std::copy_n(model.frequencies, kRansEntries, entries + kRansEntries);
        }
        table[plane] = static_cast<std::uint8_t>(mode);
        table[kMostPlanes + plane] = static_cast<std::uint8_t>(mode == PlaneMode::constant ? some : 0);
    }
}

bool read_table(Dtype dtype, const std::uint8_t* table, PlaneCodes& codes) {
    codes.dtype = dtype;
    codes.cut = cut_of(dtype);
    for (int plane = 0; plane < codes.cut.count; ++plane) {
        PlaneCode& code = codes.planes[plane];
        if (table[plane] > static_cast<int>(PlaneMode::coded)) return false;
        code.mode = static_cast<PlaneMode>(table[plane]);
        code.constant = table[kMostPlanes + plane];
        const std::uint8_t* entries = table + kTableHead + plane * kTablePlane;
        std::copy_n(entries, kRansEntries, code.model.symbols);
        std::copy_n(entries + kRansEntries, kRansEntries, code.model.frequencies);
        if (code.mode == PlaneMode::coded && !code.model.complete()) return false;
    }
    return true;
}

struct LosslessEncoder::Room {
    PlaneRoom planes;
    CodedPlane coded[kMostPlanes];
};

std::unique_ptr<LosslessEncoder::Room, void (*)(LosslessEncoder::Room*)> LosslessEncoder::room() {
    return {new Room, [](Room* room) { delete room; }};
}

LosslessEncoder::LosslessEncoder(const PlaneCodes& codes) : codes_(codes) {
    for (int plane = 0; plane < codes.cut.count; ++plane)
        if (codes.planes[plane].mode == PlaneMode::coded) encoders_[plane].emplace(codes.planes[plane].model);
}

std::int64_t LosslessEncoder::encode(const void* values, std::int64_t rows, std::int64_t width, std::int64_t stride,
                                     Room& room, std::uint8_t* to) const {
    const std::uint8_t* const begin = to;
    const std::int64_t size = size_of(codes_.dtype), count = rows * width;
    PlaneRoom& planes = room.planes;
    for (std::int64_t row = 0; row < rows; ++row)
        cut(codes_.dtype, static_cast<const std::uint8_t*>(values) + row * stride * size, width, planes, row * width);
    const std::uint8_t no_cargo[kRansLanes] = {};
    std::uint8_t cargo_bytes[kRansLanes] = {};
    const int top = codes_.cut.count - 1;
    int cargo = count >= kRansLanes ? codes_.cargo() : -1;
    if (cargo >= 0)
        for (std::int64_t i = count - kRansLanes; i < count; ++i) cargo_bytes[i % kRansLanes] = planes.of[cargo][i];
    bool is_coded[kMostPlanes] = {};
    for (int plane = 0; plane <= top; ++plane) {
        if (!encoders_[plane]) continue;
        is_coded[plane] =
            room.coded[plane].encode(*encoders_[plane], planes.of[plane], count, plane == top ? cargo_bytes : no_cargo,
                                     stored_bytes(codes_.cut.widths[plane], count));
        write_u16(is_coded[plane] ? room.coded[plane].exceptions : kStoredPlane, to);
        write_u16(is_coded[plane] ? room.coded[plane].stream_bytes : 0, to + 2);
        to += kPlaneHead;
    }
    if (!is_coded[top]) cargo = -1;
    for (int plane = 0; plane <= top; ++plane) {
        if (codes_.planes[plane].mode != PlaneMode::stored) continue;
        const std::int64_t here = plane == cargo ? count - kRansLanes : count;
        to = store_plane(planes.of[plane], codes_.cut.widths[plane], here, to);
    }
    for (int plane = 0; plane <= top; ++plane) {
        if (is_coded[plane])
            to = room.coded[plane].write(to);
        else if (encoders_[plane])
            to = store_plane(planes.of[plane], codes_.cut.widths[plane], count, to);
    }
    while ((to - begin) % kBlockAlignment != 0) *to++ = 0;
    return to - begin;
}

}  // namespace tilepress
