// rANS steps with AVX2. The states' low bytes are one vector; their high bytes are two vectors of 16-bit numbers, which
// hold lanes 0..7 and 16..23, and lanes 8..15 and 24..31, as packing and unpacking within 128 bits have it.
#pragma once

#include <immintrin.h>

#include "rans_decode.hpp"

namespace tilepress {
namespace {

// For each mask of 8 lanes: which of the next 8 bytes a lane takes; 0x80 gives it none.
struct RansSpread {
    alignas(64) std::uint64_t of[256];

    constexpr RansSpread() : of() {
        for (unsigned mask = 0; mask < 256; ++mask) {
            std::uint64_t taken = 0;
            for (unsigned lane = 0; lane < 8; ++lane)
                of[mask] |= (mask >> lane & 1 ? taken++ : std::uint64_t{0x80}) << (8 * lane);
        }
    }
};
constexpr RansSpread kRansSpread;

// `Levels` is 4 where the model has at most 16 entries, and 5 elsewhere.
template <int Levels>
class RansAvx2 {
public:
    struct States {
        __m256i low, high_a, high_b;
    };

    explicit RansAvx2(const RansModel& model) {
        // The last entry whose start is not above the slot is found bit by bit. Entries that aren't there come first,
        // with start 0.
        constexpr int entries = 1 << Levels;
        const int skipped = kRansEntries - entries;
        for (int level = 0; level < Levels; ++level) {
            std::uint8_t bounds[16];
            const int half = entries >> (level + 1);
            for (int i = 0; i < 16; ++i) {
                const int prefix = i & ((1 << level) - 1);
                bounds[i] = model.starts[skipped + prefix * 2 * half + half];
            }
            bounds_[level] = twice(bounds);
        }
        for (int part = 0; part < Levels - 3; ++part) {
            const int first = skipped + 16 * part;
            symbols_[part] = twice(model.symbols + first);
            frequencies_[part] = twice(model.frequencies + first);
            starts_[part] = twice(model.starts + first);
        }
    }

    static States load(const RansBytes& bytes) {
        const __m256i high = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes.high));
        const __m256i zero = _mm256_setzero_si256();
        return {_mm256_load_si256(reinterpret_cast<const __m256i*>(bytes.low)), _mm256_unpacklo_epi8(high, zero),
                _mm256_unpackhi_epi8(high, zero)};
    }

    static void store(const States& states, RansBytes& bytes) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(bytes.low), states.low);
        _mm256_store_si256(reinterpret_cast<__m256i*>(bytes.high), _mm256_packus_epi16(states.high_a, states.high_b));
    }

    const std::uint8_t* step(States& states, const std::uint8_t* bytes, std::uint8_t* symbols) const {
        const __m256i zero = _mm256_setzero_si256();
        const __m256i low_byte = _mm256_set1_epi16(0xff);
        const __m256i slots = states.low;
        // "Not below" is 0xff, which is -1: subtracting it appends a 1 to the entry's number.
        __m256i entries = _mm256_sub_epi8(zero, not_below(slots, bounds_[0]));
        for (int level = 1; level < Levels; ++level) {
            const __m256i bounds = _mm256_shuffle_epi8(bounds_[level], entries);
            entries = _mm256_sub_epi8(_mm256_add_epi8(entries, entries), not_below(slots, bounds));
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(symbols), look_up(symbols_, entries));
        const __m256i frequencies = look_up(frequencies_, entries);
        const __m256i places = _mm256_sub_epi8(slots, look_up(starts_, entries));
        const __m256i x_a = _mm256_add_epi16(_mm256_mullo_epi16(_mm256_unpacklo_epi8(frequencies, zero), states.high_a),
                                             _mm256_unpacklo_epi8(places, zero));
        const __m256i x_b = _mm256_add_epi16(_mm256_mullo_epi16(_mm256_unpackhi_epi8(frequencies, zero), states.high_b),
                                             _mm256_unpackhi_epi8(places, zero));
        const __m256i high_a = _mm256_srli_epi16(x_a, 8), high_b = _mm256_srli_epi16(x_b, 8);
        const __m256i small_a = _mm256_cmpeq_epi16(high_a, zero), small_b = _mm256_cmpeq_epi16(high_b, zero);
        const __m256i is_small = _mm256_packs_epi16(small_a, small_b);
        const auto mask = static_cast<std::uint32_t>(_mm256_movemask_epi8(is_small));
        const __m256i low = _mm256_packus_epi16(_mm256_and_si256(x_a, low_byte), _mm256_and_si256(x_b, low_byte));
        states.high_a = _mm256_or_si256(high_a, _mm256_and_si256(small_a, x_a));
        states.high_b = _mm256_or_si256(high_b, _mm256_and_si256(small_b, x_b));
        // Of a lane that takes no byte, the spread byte is 0.
        const __m256i taken = spread(mask, bytes);
        states.low = _mm256_or_si256(_mm256_andnot_si256(is_small, low), taken);
        return bytes + __builtin_popcount(mask);
    }

private:
    static __m256i twice(const std::uint8_t* bytes) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    }
    static __m256i not_below(__m256i slots, __m256i bounds) {
        return _mm256_cmpeq_epi8(_mm256_max_epu8(slots, bounds), slots);
    }
    static __m256i look_up(const __m256i* table, __m256i entries) {
        const __m256i first = _mm256_shuffle_epi8(table[0], entries);
        if (Levels == 4) return first;
        const __m256i second = _mm256_shuffle_epi8(table[Levels - 4], entries);
        return _mm256_blendv_epi8(first, second, _mm256_slli_epi16(entries, 3));
    }
    static __m128i spread_half(std::uint32_t mask, const std::uint8_t* bytes) {
        const std::uint8_t* second = bytes + __builtin_popcount(mask & 0xff);
        const __m128i low =
            _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)),
                             _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRansSpread.of + (mask & 0xff))));
        const __m128i high =
            _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(second)),
                             _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRansSpread.of + (mask >> 8 & 0xff))));
        return _mm_unpacklo_epi64(low, high);
    }
    static __m256i spread(std::uint32_t mask, const std::uint8_t* bytes) {
        const __m128i low = spread_half(mask & 0xffff, bytes);
        const __m128i high = spread_half(mask >> 16, bytes + __builtin_popcount(mask & 0xffff));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }

    __m256i bounds_[Levels];
    __m256i symbols_[Levels - 3];
    __m256i frequencies_[Levels - 3];
    __m256i starts_[Levels - 3];
};

// Gives each model its coder.
struct RansCodersAvx2 {
    template <class... Streams>
    static void decode(const RansModel& model, const Streams&... streams) {
        if (model.has_few_entries())
            rans_decode(model, RansAvx2<4>(model), streams...);
        else
            rans_decode(model, RansAvx2<5>(model), streams...);
    }
};

}  // namespace
}  // namespace tilepress
