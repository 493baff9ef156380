#include "sz_encode.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tilepress {
namespace {

std::uint8_t* write_u16(std::int64_t value, std::uint8_t* to) {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
    return to + 2;
}

// One plane of low parts, from bits `bit` on, see `unpack_low`.
std::uint8_t* pack_low(const std::uint8_t* low, int width, int bit, std::int64_t count, std::uint8_t* to) {
    const std::int64_t bytes = plane_bytes(width, count);
    const int mask = (1 << width) - 1;
    std::memset(to, 0, static_cast<std::size_t>(bytes));
    for (int field = 0; field < 8 / width; ++field) {
        const std::int64_t here = std::min(bytes, count - field * bytes);
        const std::uint8_t* from = low + field * bytes;
        const int up = width * field;
        for (std::int64_t i = 0; i < here; ++i)
            to[i] = static_cast<std::uint8_t>(to[i] | (from[i] >> bit & mask) << up);
    }
    return to + bytes;
}

}  // namespace

void write_sz_table(const SzCode& code, std::uint8_t* table) {
    std::memset(table, 0, kSzTableBytes);
    std::memcpy(table, &code.step, sizeof code.step);
    table[4] = static_cast<std::uint8_t>(code.shift);
    std::copy_n(code.model.symbols, kRansEntries, table + kSzTableHead);
    std::copy_n(code.model.frequencies, kRansEntries, table + kSzTableHead + kRansEntries);
}

bool read_sz_table(const std::uint8_t* table, Predictor predictor, SzCode& code) {
    code.predictor = predictor;
    std::memcpy(&code.step, table, sizeof code.step);
    code.shift = table[4];
    std::copy_n(table + kSzTableHead, kRansEntries, code.model.symbols);
    std::copy_n(table + kSzTableHead + kRansEntries, kRansEntries, code.model.frequencies);
    return std::isfinite(code.step) && code.step > 0 && code.shift <= kSzMostShift && code.model.complete();
}

std::int64_t SzEncoder::encode(const SzBlock& block, Room& room, std::uint8_t* to) const {
    const std::uint8_t* const begin = to;
    const std::int64_t count = block.rows * block.width;
    const int shift = code_.shift;
    std::int32_t* residuals = room.residuals.data();
    std::uint8_t* symbols = room.symbols.data();
    quantize(block, bound_, code_.step, most_integer_at(shift), code_.predictor, residuals, room.outliers);
    const std::int64_t low = low_bytes(shift, count), cargo = low >= kRansLanes ? kRansLanes : 0;
    const std::int64_t outliers = static_cast<std::int64_t>(room.outliers.size());

    std::uint8_t* packed = room.packed.data();
    int bit = 0;
    over_planes(shift, [&](int width) {
        if (bit % 8 == 0)
            for (std::int64_t i = 0; i < count; ++i) room.low[i] = static_cast<std::uint8_t>(residuals[i] >> bit);
        packed = pack_low(room.low.data(), width, bit % 8, count, packed);
        bit += width;
    });

    // High parts. `exceptions` has a place for each position; those without an entry move on to the next.
    std::int64_t exceptions = 0;
    for (std::int64_t i = 0; i < count; ++i)
        symbols[i] = static_cast<std::uint8_t>((residuals[i] >> shift) + kSzMiddle);
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int32_t high = residuals[i] >> shift;
        const bool is_exception = high + kSzMiddle != symbols[i] || !encoder_.has_entry(symbols[i]);
        if (is_exception) symbols[i] = encoder_.stand_in();
        room.exceptions[static_cast<std::size_t>(exceptions)] = static_cast<std::int32_t>(i);
        exceptions += is_exception;
    }

    std::uint8_t cargo_bytes[kRansLanes] = {};
    if (cargo != 0) std::copy_n(room.packed.data() + low - cargo, cargo, cargo_bytes);
    const std::uint8_t* stream = encoder_.encode(symbols, count, cargo_bytes, room.stream.data());
    const std::int64_t stream_bytes = room.stream.data() + kRansStateBytes + count - stream;

    to = write_u16(stream_bytes, write_u16(outliers, write_u16(exceptions, to)));
    to = std::copy_n(room.packed.data(), low - cargo, to);
    to = std::copy_n(stream, stream_bytes, to);
    for (std::int64_t i = 0; i < exceptions; ++i) to = write_u16(room.exceptions[i], to);
    for (std::int64_t i = 0; i < exceptions; ++i) to = write_u16(residuals[room.exceptions[i]] >> shift, to);
    for (const std::int32_t position : room.outliers) to = write_u16(position, to);
    const std::int64_t size = size_of(block.dtype);
    const auto* values = static_cast<const std::uint8_t*>(block.values);
    for (const std::int32_t position : room.outliers) {
        const std::int64_t place = position / block.width * block.stride + position % block.width;
        to = std::copy_n(values + place * size, size, to);
    }
    while ((to - begin) % kSzAlignment != 0) *to++ = 0;
    return to - begin;
}

}  // namespace tilepress
