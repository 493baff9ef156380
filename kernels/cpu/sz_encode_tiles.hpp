// Writing tiles of `sz` (sz_encode.hpp).
//
// `Pushers` gives each model its `Pusher` (rans_encode.hpp):
//
//     static void with(const RansModel&, const Function&)     calls function(pusher)
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "arithmetic.hpp"
#include "rans_encode.hpp"
#include "sz_quantize.hpp"

namespace tilepress {
namespace {

inline std::uint8_t* write_u16(std::int64_t value, std::uint8_t* to) {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
    return to + 2;
}

// One plane of low parts, from bits `bit` on, see `unpack_low`.
inline std::uint8_t* pack_low(const std::uint8_t* low, int width, int bit, std::int64_t count, std::uint8_t* to) {
    if (width == 8) return std::copy_n(low, count, to);
    const std::int64_t bytes = plane_bytes(width, count);
    const int mask = (1 << width) - 1;
    std::memset(to, 0, static_cast<std::size_t>(bytes));
    for (int field = 0; field < 8 / width; ++field) {
        const std::int64_t here = smaller(bytes, count - field * bytes);
        const std::uint8_t* from = low + field * bytes;
        const int up = width * field;
        for (std::int64_t i = 0; i < here; ++i)
            to[i] = static_cast<std::uint8_t>(to[i] | (from[i] >> bit & mask) << up);
    }
    return to + bytes;
}

template <class Pushers>
class SzTileWriter {
public:
    SzTileWriter(const SzCode& code, double bound) : code_(code), bound_(bound) {}

    // Returns the bytes written.
    std::int64_t write(const SzBlock& block, std::uint8_t* to) {
        const std::uint8_t* const begin = to;
        const std::int64_t count = block.rows * block.width;
        split(block);
        const std::int64_t low = low_bytes(code_.shift, count), cargo = low >= kRansLanes ? kRansLanes : 0;
        std::uint8_t* const head = to;
        to += kSzHead;
        int bit = 0;
        over_planes(code_.shift, [&](int width) {
            to = pack_low(low_[bit / 8], width, bit % 8, count, to);
            bit += width;
        });
        to -= cargo;
        std::uint8_t cargo_bytes[kRansLanes] = {};
        std::memcpy(cargo_bytes, to, static_cast<std::size_t>(cargo));
        const std::uint8_t* stream = encode(count, cargo_bytes);
        const std::int64_t stream_bytes = room_ + kRansStateBytes + count - stream;
        collect_exceptions();
        write_u16(stream_bytes, write_u16(static_cast<std::int64_t>(outliers_.size()),
                                          write_u16(static_cast<std::int64_t>(exceptions_.size()), head)));
        to = std::copy_n(stream, stream_bytes, to);
        for (const Exception& exception : exceptions_) to = write_u16(exception.position, to);
        for (const Exception& exception : exceptions_) to = write_u16(exception.high, to);
        for (const std::uint16_t position : outliers_) to = write_u16(position, to);
        const std::int64_t size = size_of(block.dtype);
        const auto* values = static_cast<const std::uint8_t*>(block.values);
        for (const std::int64_t position : outliers_) {
            const std::int64_t place = position / block.width * block.stride + position % block.width;
            to = std::copy_n(values + place * size, size, to);
        }
        while ((to - begin) % kSzAlignment != 0) *to++ = 0;
        return to - begin;
    }

private:
    struct Exception {
        std::uint16_t position;
        std::int32_t high;

        bool operator<(const Exception& other) const { return position < other.position; }
    };

    // Residuals to symbols and low parts. High parts that are no symbol become exceptions; 0 stands in for them.
    void split(const SzBlock& block) {
        std::int64_t place = 0;
        exceptions_.clear();
        quantize(block, bound_, code_.step, most_integer_at(code_.shift), code_.predictor, outliers_,
                 [&](const std::int32_t* residuals) {
                     split_row(residuals, block.width, code_.shift, place);
                     place += block.width;
                 });
    }

    void split_row(const std::int32_t* residuals, std::int64_t width, int shift, std::int64_t place) {
        std::uint8_t* const symbols = symbols_ + place;
        std::uint8_t* const low = low_[0] + place;
        std::uint8_t* const middle = low_[1] + place;
        std::uint32_t far = 0;
        for (std::int64_t i = 0; i < width; ++i) {
            const auto symbol = static_cast<std::uint32_t>((residuals[i] >> shift) + kSzMiddle);
            symbols[i] = static_cast<std::uint8_t>(symbol);
            far |= symbol;
        }
        for (std::int64_t i = 0; shift > 0 && i < width; ++i) low[i] = static_cast<std::uint8_t>(residuals[i]);
        for (std::int64_t i = 0; shift > 8 && i < width; ++i) middle[i] = static_cast<std::uint8_t>(residuals[i] >> 8);
        for (std::int64_t i = 0; far > 255 && i < width; ++i) {
            const std::int32_t high = residuals[i] >> shift;
            if (high + kSzMiddle == symbols[i]) continue;
            exceptions_.push_back({static_cast<std::uint16_t>(place + i), high});
            symbols[i] = kSzMiddle;
        }
    }

    const std::uint8_t* encode(std::int64_t count, const std::uint8_t* cargo) {
        const std::uint8_t* stream = nullptr;
        Pushers::with(code_.model, [&](const auto& pusher) {
            rans_find(pusher, symbols_, count, entries_, without_);
            stream = rans_encode(code_.model, pusher, entries_, count, cargo, room_);
        });
        return stream;
    }

    // Add those whose symbols have no entry.
    void collect_exceptions() {
        const auto far = static_cast<std::ptrdiff_t>(exceptions_.size());
        for (std::int64_t i = 0; i < without_.count; ++i) {
            const std::uint16_t position = positions_[i];
            if (!std::binary_search(exceptions_.begin(), exceptions_.begin() + far, Exception{position, 0}))
                exceptions_.push_back({position, symbols_[position] - kSzMiddle});
        }
        std::inplace_merge(exceptions_.begin(), exceptions_.begin() + far, exceptions_.end());
    }

    const SzCode& code_;
    double bound_;
    alignas(64) std::uint8_t symbols_[kSzTileValues] = {};
    alignas(64) std::uint8_t low_[2][kSzTileValues];
    alignas(64) std::uint8_t entries_[kSzTileValues];
    std::uint8_t room_[kRansStateBytes + kSzTileValues];
    std::uint16_t positions_[kSzTileValues];
    RansExceptions without_{positions_, 0};
    std::vector<Exception> exceptions_;
    std::vector<std::uint16_t> outliers_;
};

template <class Pushers>
void encode_sz(const SzCode& code, double bound, const SzMatrix& matrix, Range range, std::uint8_t* to,
               std::int64_t* sizes) {
    const auto writer = std::make_unique<SzTileWriter<Pushers>>(code, bound);
    for (std::int64_t number = range.first; number < range.last; ++number) {
        sizes[number] = writer->write(matrix.tile(number), to);
        to += sizes[number];
    }
}

}  // namespace
}  // namespace tilepress
