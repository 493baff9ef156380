// Reading tiles of `sz` (sz.hpp): from bytes to integers.
#pragma once

#include <cstring>

#include "arithmetic.hpp"
#include "floats.hpp"
#include "rans_decode.hpp"
#include "sz.hpp"

namespace tilepress {
namespace {

inline unsigned sz_u16(const std::uint8_t* bytes) {
    return bytes[0] | unsigned{bytes[1]} << 8;
}

// Values of a tile that are stored aside: ascending positions, then `size` bytes each.
struct SzAside {
    const std::uint8_t* positions = nullptr;
    const std::uint8_t* values = nullptr;
    std::int64_t count = 0;
    std::int64_t size = 0;

    std::int64_t position(std::int64_t i) const { return sz_u16(positions + 2 * i); }
    const std::uint8_t* value(std::int64_t i) const { return values + i * size; }

    bool ascends_below(std::int64_t most) const {
        for (std::int64_t i = 0; i < count; ++i)
            if (position(i) >= most || (i > 0 && position(i) <= position(i - 1))) return false;
        return true;
    }
    // The first whose position is not below.
    std::int64_t find(std::int64_t wanted) const {
        std::int64_t first = 0, last = count;
        while (first < last) {
            const std::int64_t middle = (first + last) / 2;
            if (position(middle) < wanted)
                first = middle + 1;
            else
                last = middle;
        }
        return first;
    }
    // Call function(position, value) for those in a range of positions.
    template <class Function>
    void over(std::int64_t first, std::int64_t last, const Function& function) const {
        for (std::int64_t i = find(first); i < count && position(i) < last; ++i) function(position(i), value(i));
    }
};

// Add a plane of low parts to bytes that have their bits at `bit`.
inline void unpack_low(const std::uint8_t* from, int width, int bit, std::int64_t count, std::uint8_t* to) {
    const std::int64_t bytes = plane_bytes(width, count);
    const int mask = (1 << width) - 1;
    for (int field = 0; field < 8 / width; ++field) {
        const std::int64_t here = smaller(bytes, count - field * bytes);
        std::uint8_t* place = to + field * bytes;
        const int down = width * field;
        if (bit == 0)
            for (std::int64_t i = 0; i < here; ++i) place[i] = static_cast<std::uint8_t>(from[i] >> down & mask);
        else
            for (std::int64_t i = 0; i < here; ++i)
                place[i] = static_cast<std::uint8_t>(place[i] | (from[i] >> down & mask) << bit);
    }
}

// A tile on its way from bytes to integers: `open` finds its parts, its stream is decoded, `close` takes the cargo.
class SzTile {
public:
    static constexpr std::int64_t kNone = -1;

    std::int64_t number() const { return number_; }
    const RansStream& stream() const { return stream_; }
    const SzAside& outliers() const { return outliers_; }

    // False where the tile, of `count` values, is damaged.
    bool open(const Sz& weight, std::int64_t number, std::int64_t count) {
        number_ = kNone;
        const std::int64_t begin = weight.offsets[number], end = weight.offsets[number + 1];
        if (begin < 0 || end < begin || end > weight.payload_bytes || end - begin < kSzHead) return false;
        const std::uint8_t* bytes = weight.payload + begin;
        exceptions_.count = sz_u16(bytes);
        exceptions_.size = 2;
        outliers_.count = sz_u16(bytes + 2);
        outliers_.size = size_of(weight.dtype);
        const std::int64_t stream_bytes = sz_u16(bytes + 4), low = low_bytes(weight.code.shift, count);
        const std::int64_t cargo = low >= kRansLanes ? kRansLanes : 0;
        const std::int64_t aside = (2 + exceptions_.size) * exceptions_.count + (2 + outliers_.size) * outliers_.count;
        if (stream_bytes < kRansStateBytes || end - begin < kSzHead + low - cargo + stream_bytes + aside) return false;
        const std::uint8_t* stream = bytes + kSzHead + low - cargo;
        exceptions_.positions = stream + stream_bytes;
        exceptions_.values = exceptions_.positions + 2 * exceptions_.count;
        outliers_.positions = exceptions_.values + exceptions_.size * exceptions_.count;
        outliers_.values = outliers_.positions + 2 * outliers_.count;
        if (!exceptions_.ascends_below(count) || !outliers_.ascends_below(count)) return false;
        std::memcpy(stored_, bytes + kSzHead, static_cast<std::size_t>(low - cargo));
        stream_ = {stream, stream_bytes, count, symbols_, cargo == 0 ? spare_ : stored_ + low - cargo};
        number_ = number;
        return true;
    }

    // After the stream has been decoded.
    void close(int shift) {
        const std::uint8_t* from = stored_;
        int bit = 0;
        over_planes(shift, [&](int width) {
            unpack_low(from, width, bit % 8, stream_.count, low_[bit / 8]);
            from += plane_bytes(width, stream_.count);
            bit += width;
        });
    }

    // Residuals of `count` values from position `first` on.
    void residuals(int shift, std::int64_t first, std::int64_t count, std::int32_t* to) const {
        const std::uint8_t* symbols = symbols_ + first;
        const std::uint8_t* low = low_[0] + first;
        const std::uint8_t* middle = low_[1] + first;
        if (shift == 0)
            for (std::int64_t i = 0; i < count; ++i) to[i] = symbols[i] - kSzMiddle;
        else if (shift <= 8)
            for (std::int64_t i = 0; i < count; ++i) to[i] = (symbols[i] - kSzMiddle) * (1 << shift) + low[i];
        else
            for (std::int64_t i = 0; i < count; ++i)
                to[i] = (symbols[i] - kSzMiddle) * (1 << shift) + (middle[i] << 8 | low[i]);
        exceptions_.over(first, first + count, [&](std::int64_t position, const std::uint8_t* value) {
            // Modulo 2^32: no encoder writes such parts that this matters, but others may.
            const auto high = static_cast<std::uint32_t>(static_cast<std::int16_t>(sz_u16(value)));
            const std::int64_t i = position - first;
            const std::uint32_t stand_in = static_cast<std::uint32_t>(symbols[i]) - kSzMiddle;
            to[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(to[i]) + ((high - stand_in) << shift));
        });
    }

private:
    SzAside exceptions_, outliers_;
    RansStream stream_;
    std::int64_t number_ = kNone;
    std::uint8_t spare_[kRansLanes];
    alignas(64) std::uint8_t symbols_[kSzTileValues];
    alignas(64) std::uint8_t low_[2][kSzTileValues];
    alignas(64) std::uint8_t stored_[2 * kSzTileValues];
};

// Where a tile is: its number and its values.
struct SzPlace {
    std::int64_t number;
    std::int64_t count;
};

// Decodes tiles two at a time, where it is told which one comes next. `Coders` gives each model its `Coder`
// (rans_decode.hpp):
//
//     static void decode(const RansModel&, const RansStream&)
//     static void decode(const RansModel&, const RansStream&, const RansStream&)
template <class Coders>
class SzReader {
public:
    // A tile, which is there until the next call; null where it is damaged. `next`, or SzTile::kNone, will be read
    // next.
    const SzTile* read(const Sz& weight, const SzPlace& place, const SzPlace& next) {
        SzTile &ready = tiles_[ahead_], &tile = tiles_[1 - ahead_];
        if (ready.number() == place.number) {
            ahead_ = 1 - ahead_;
            return &ready;
        }
        const bool is_open = tile.open(weight, place.number, place.count);
        const bool has_next = next.number != SzTile::kNone && ready.open(weight, next.number, next.count);
        if (is_open && has_next)
            Coders::decode(weight.code.model, tile.stream(), ready.stream());
        else if (is_open || has_next)
            Coders::decode(weight.code.model, (is_open ? tile : ready).stream());
        if (has_next) ready.close(weight.code.shift);
        if (!is_open) return nullptr;
        tile.close(weight.code.shift);
        return &tile;
    }

    // Those of the tile that was read last.
    const SzAside& outliers() const { return tiles_[1 - ahead_].outliers(); }

private:
    SzTile tiles_[2];
    int ahead_ = 1;  // the tile that may have been read already
};

}  // namespace
}  // namespace tilepress
