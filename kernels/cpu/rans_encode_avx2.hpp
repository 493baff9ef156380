// The inverse of rANS steps with AVX2. The states' low bytes are one vector, their high bytes another.
#pragma once

#include <immintrin.h>

#include "rans_encode.hpp"

namespace tilepress {
namespace {

// For each mask of 8 lanes: which lane each of 8 bytes comes from, those of the mask moved up to the end.
struct RansPack {
    alignas(64) std::uint64_t of[256];

    constexpr RansPack() : of() {
        for (unsigned mask = 0; mask < 256; ++mask) {
            int place = 7;
            for (int lane = 7; lane >= 0; --lane)
                if (mask >> lane & 1) of[mask] |= static_cast<std::uint64_t>(lane) << (8 * place--);
        }
    }
};
constexpr RansPack kRansPack;

// `Levels` is 4 where the model has at most 16 entries, and 5 elsewhere.
template <int Levels>
class RansPusherAvx2 {
public:
    struct States {
        __m256i low, high;
    };

    explicit RansPusherAvx2(const RansModel& model) {
        const RansFinder finder(model);
        stand_in_ = _mm256_set1_epi8(static_cast<char>(finder.stand_in));
        for (int sixteen = 0; sixteen < 256; sixteen += 16) {
            std::uint8_t numbers[16];
            bool any = false;
            for (int i = 0; i < 16; ++i) {
                const std::uint8_t entry = finder.entry_of[sixteen + i];
                numbers[i] = static_cast<std::uint8_t>(entry == kRansEntries ? 0 : entry + 1);
                any |= numbers[i] != 0;
            }
            if (!any) continue;
            sixteens_[pieces_] = _mm256_set1_epi8(static_cast<char>(sixteen));
            numbers_[pieces_++] = twice(numbers);
        }
        std::uint8_t reciprocal_low[kRansEntries] = {}, reciprocal_high[kRansEntries] = {};
        for (int entry = 0; entry < kRansEntries; ++entry) {
            if (model.frequencies[entry] == 0) continue;
            // Rounded down: the quotient of x < 256 * frequency is too small by 1 at most.
            const unsigned reciprocal = model.frequencies[entry] == 1 ? 65535u : 65536u / model.frequencies[entry];
            reciprocal_low[entry] = static_cast<std::uint8_t>(reciprocal);
            reciprocal_high[entry] = static_cast<std::uint8_t>(reciprocal >> 8);
        }
        for (int part = 0; part < Levels - 3; ++part) {
            const int first = kRansEntries - (1 << Levels) + 16 * part;
            frequencies_[part] = twice(model.frequencies + first);
            starts_[part] = twice(model.starts + first);
            reciprocals_low_[part] = twice(reciprocal_low + first);
            reciprocals_high_[part] = twice(reciprocal_high + first);
        }
    }

    std::uint32_t find(const std::uint8_t* symbols, std::uint8_t* entries) const {
        const __m256i wanted = load_bytes(symbols);
        __m256i numbers = _mm256_setzero_si256();
        for (int piece = 0; piece < pieces_; ++piece) {
            // The place among the sixteen symbols of a piece; others get their highest bit set, which looks up 0.
            const __m256i place = _mm256_adds_epu8(_mm256_xor_si256(wanted, sixteens_[piece]), _mm256_set1_epi8(0x70));
            numbers = _mm256_or_si256(numbers, _mm256_shuffle_epi8(numbers_[piece], place));
        }
        const __m256i without = _mm256_cmpeq_epi8(numbers, _mm256_setzero_si256());
        const __m256i found = _mm256_blendv_epi8(_mm256_sub_epi8(numbers, _mm256_set1_epi8(1)), stand_in_, without);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(entries), found);
        return static_cast<std::uint32_t>(_mm256_movemask_epi8(without));
    }

    static States load(const RansBytes& bytes) { return {load_bytes(bytes.low), load_bytes(bytes.high)}; }

    static void store(const States& states, RansBytes& bytes) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(bytes.low), states.low);
        _mm256_store_si256(reinterpret_cast<__m256i*>(bytes.high), states.high);
    }

    std::uint8_t* push(States& states, const std::uint8_t* numbers, std::uint8_t* to) const {
        const __m256i entries = load_bytes(numbers);
        const __m256i zero = _mm256_setzero_si256();
        const __m256i frequencies = look_up(frequencies_, entries);
        const __m256i reciprocals_low = look_up(reciprocals_low_, entries);
        const __m256i reciprocals_high = look_up(reciprocals_high_, entries);
        // A state of 256 times the frequency or more gives its low byte away.
        const __m256i is_large = _mm256_cmpeq_epi8(_mm256_max_epu8(states.high, frequencies), states.high);
        to = give_away(states.low, static_cast<std::uint32_t>(_mm256_movemask_epi8(is_large)), to);
        const __m256i low = _mm256_blendv_epi8(states.low, states.high, is_large);
        const __m256i high = _mm256_andnot_si256(is_large, states.high);
        const Quotient a = divide(_mm256_unpacklo_epi8(low, high), _mm256_unpacklo_epi8(frequencies, zero),
                                  _mm256_unpacklo_epi8(reciprocals_low, reciprocals_high));
        const Quotient b = divide(_mm256_unpackhi_epi8(low, high), _mm256_unpackhi_epi8(frequencies, zero),
                                  _mm256_unpackhi_epi8(reciprocals_low, reciprocals_high));
        // x = 256 (x / frequency) + x % frequency + start
        const __m256i is_exact = _mm256_packs_epi16(a.is_exact, b.is_exact);
        const __m256i one_more = _mm256_sub_epi8(_mm256_packus_epi16(a.quotient, b.quotient), _mm256_set1_epi8(-1));
        states.high = _mm256_add_epi8(one_more, is_exact);
        states.low = _mm256_add_epi8(_mm256_packus_epi16(a.remainder, b.remainder), look_up(starts_, entries));
        return to;
    }

private:
    struct Quotient {
        __m256i quotient, remainder;
        __m256i is_exact;  // all ones; elsewhere the quotient is too small by 1
    };

    static Quotient divide(__m256i x, __m256i frequencies, __m256i reciprocals) {
        const __m256i quotient = _mm256_mulhi_epu16(x, reciprocals);
        const __m256i rest = _mm256_sub_epi16(x, _mm256_mullo_epi16(quotient, frequencies));
        const __m256i remainder = _mm256_min_epu16(rest, _mm256_sub_epi16(rest, frequencies));
        return {quotient, remainder, _mm256_cmpeq_epi16(rest, remainder)};
    }

    static __m256i load_bytes(const std::uint8_t* from) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    }
    static __m256i twice(const std::uint8_t* bytes) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    }
    static __m256i look_up(const __m256i* table, __m256i entries) {
        const __m256i first = _mm256_shuffle_epi8(table[0], entries);
        if (Levels == 4) return first;
        const __m256i second = _mm256_shuffle_epi8(table[Levels - 4], entries);
        return _mm256_blendv_epi8(first, second, _mm256_slli_epi16(entries, 3));
    }

    // Write the bytes of a mask's lanes, the lanes in order, so that they end at `to`.
    static std::uint8_t* give_away(__m256i bytes, std::uint32_t mask, std::uint8_t* to) {
        to = give_away_half(_mm256_extracti128_si256(bytes, 1), mask >> 16, to);
        return give_away_half(_mm256_castsi256_si128(bytes), mask & 0xffff, to);
    }
    static std::uint8_t* give_away_half(__m128i bytes, std::uint32_t mask, std::uint8_t* to) {
        to = give_away_eight(_mm_unpackhi_epi64(bytes, bytes), mask >> 8, to);
        return give_away_eight(bytes, mask & 0xff, to);
    }
    static std::uint8_t* give_away_eight(__m128i bytes, std::uint32_t mask, std::uint8_t* to) {
        const __m128i lanes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kRansPack.of + mask));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to - 8), _mm_shuffle_epi8(bytes, lanes));
        return to - __builtin_popcount(mask);
    }

    __m256i stand_in_;
    __m256i sixteens_[16];
    __m256i numbers_[16];
    int pieces_ = 0;
    __m256i frequencies_[Levels - 3];
    __m256i starts_[Levels - 3];
    __m256i reciprocals_low_[Levels - 3];
    __m256i reciprocals_high_[Levels - 3];
};

// Gives each model its pusher.
struct RansPushersAvx2 {
    template <class Function>
    static void with(const RansModel& model, const Function& function) {
        if (model.has_few_entries())
            function(RansPusherAvx2<4>(model));
        else
            function(RansPusherAvx2<5>(model));
    }
};

}  // namespace
}  // namespace tilepress
