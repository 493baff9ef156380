// 16 integers of 16 bits with AVX2, for the search for trellis codes.
#pragma once

#include <immintrin.h>

#include "trellis_search.hpp"

namespace tilepress {
namespace {

struct Avx2Search {
    using Lanes = __m256i;
    static constexpr unsigned kLanes = 16;

    static Lanes broadcast(std::uint16_t value) { return _mm256_set1_epi16(static_cast<short>(value)); }
    static Lanes load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
    static void store(std::uint16_t* to, Lanes values) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), values); }
    static Lanes subtract(Lanes a, Lanes b) { return _mm256_sub_epi16(a, b); }
    static Lanes add_saturated(Lanes a, Lanes b) { return _mm256_adds_epu16(a, b); }
    static Lanes subtract_saturated(Lanes a, Lanes b) { return _mm256_subs_epu16(a, b); }
    static Lanes magnitude(Lanes a) { return _mm256_abs_epi16(a); }
    static Lanes minimum(Lanes a, Lanes b) { return _mm256_min_epu16(a, b); }
    static Lanes multiply(Lanes a, Lanes b) { return _mm256_mullo_epi16(a, b); }
    static std::uint16_t least(Lanes values) {
        const __m128i eight = _mm_min_epu16(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
        return static_cast<std::uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(eight)));
    }
    static Lanes bitwise_and(Lanes a, Lanes b) { return _mm256_and_si256(a, b); }
    // All bits, or none.
    static Lanes equal(Lanes a, Lanes b) { return _mm256_cmpeq_epi16(a, b); }
    // A bit a lane.
    static std::uint32_t where_equal(Lanes a, Lanes b) {
        const __m256i found = equal(a, b);
        return static_cast<std::uint32_t>(
            _mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1))));
    }
    static std::uint32_t sum(Lanes values) {
        alignas(32) std::uint16_t lanes[kLanes];
        store(lanes, values);
        std::uint32_t total = 0;
        for (const std::uint16_t lane : lanes) total += lane;
        return total;
    }
    // A bit for each of 64 values.
    static std::uint64_t up_to(const std::uint16_t* values, std::uint16_t limit) {
        return up_to_32(values, limit) | up_to_32(values + 32, limit) << 32;
    }
    static int count(std::uint64_t bits) { return static_cast<int>(_mm_popcnt_u64(bits)); }
    static std::uint32_t lowest(std::uint64_t bits) { return static_cast<std::uint32_t>(_tzcnt_u64(bits)); }
    // Value i >> bits in lane i.
    template <int kBits>
    static Lanes spread(const std::uint16_t* from) {
        if constexpr (kBits >= 4) {
            return broadcast(*from);
        } else {
            const __m256i lanes = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            const __m256i sources = _mm256_slli_epi16(_mm256_srli_epi16(lanes, kBits), 1);
            const __m256i bytes =
                _mm256_or_si256(sources, _mm256_slli_epi16(_mm256_add_epi16(sources, _mm256_set1_epi16(1)), 8));
            return _mm256_shuffle_epi8(few<(16 >> kBits)>(from), bytes);
        }
    }
    // Run i >> bits, its value i mod 2^bits, in lane i; from value `begin` of the run on where runs are longer.
    template <int kBits>
    static Lanes load_runs(const std::int16_t* book, const std::uint16_t* runs, std::uint32_t begin) {
        if constexpr (kBits >= 4) {
            return load(book + runs[0] + begin);
        } else if constexpr (kBits == 3) {
            return _mm256_set_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i*>(book + runs[1])),
                                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(book + runs[0])));
        } else if constexpr (kBits == 2) {
            return _mm256_set_epi64x(whole<long long>(book + runs[3]), whole<long long>(book + runs[2]),
                                     whole<long long>(book + runs[1]), whole<long long>(book + runs[0]));
        } else {
            return _mm256_setr_epi32(whole<int>(book + runs[0]), whole<int>(book + runs[1]), whole<int>(book + runs[2]),
                                     whole<int>(book + runs[3]), whole<int>(book + runs[4]), whole<int>(book + runs[5]),
                                     whole<int>(book + runs[6]), whole<int>(book + runs[7]));
        }
    }

    // Lower the runs of `to` that begin at the lowest bits of `runs`, or their values from `begin` on, to the values.
    template <int kBits>
    static void lower_runs(std::uint16_t* to, const std::uint16_t* runs, std::uint16_t mask, std::uint32_t begin,
                           Lanes values) {
        if constexpr (kBits >= 4) {
            std::uint16_t* run = to + (runs[0] & mask) + begin;
            store(run, minimum(load(run), values));
        } else {
            lower_half<kBits>(to, runs, mask, _mm256_castsi256_si128(values));
            lower_half<kBits>(to, runs + (8 >> kBits), mask, _mm256_extracti128_si256(values, 1));
        }
    }

private:
    static std::uint64_t up_to_32(const std::uint16_t* values, std::uint16_t limit) {
        const __m256i limits = broadcast(limit);
        const __m256i low = subtract_saturated(load(values), limits);
        const __m256i high = subtract_saturated(load(values + kLanes), limits);
        // What is not zero stays so.
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8);
        return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_setzero_si256())));
    }
    template <int kBits>
    static void lower_half(std::uint16_t* to, const std::uint16_t* runs, std::uint16_t mask, __m128i values) {
        for (int i = 0; i < 8 >> kBits; ++i) {
            auto* run = reinterpret_cast<__m128i*>(to + (runs[i] & mask));
            if constexpr (kBits == 3) {
                _mm_storeu_si128(run, _mm_min_epu16(_mm_loadu_si128(run), values));
            } else if constexpr (kBits == 2) {
                _mm_storel_epi64(run, _mm_min_epu16(_mm_loadl_epi64(run), values));
                values = _mm_srli_si128(values, 8);
            } else {
                const __m128i lower = _mm_min_epu16(_mm_cvtsi32_si128(whole<int>(run)), values);
                const int both = _mm_cvtsi128_si32(lower);
                std::memcpy(run, &both, sizeof(both));
                values = _mm_srli_si128(values, 4);
            }
        }
    }
    template <class Number>
    static Number whole(const void* from) {
        Number number;
        std::memcpy(&number, from, sizeof(number));
        return number;
    }
    // The `kCount` values, 2, 4 or 8, over and over.
    template <int kCount>
    static __m256i few(const std::uint16_t* from) {
        if constexpr (kCount == 2) return _mm256_set1_epi32(whole<int>(from));
        if constexpr (kCount == 4) return _mm256_set1_epi64x(whole<long long>(from));
        if constexpr (kCount == 8)
            return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
};

}  // namespace
}  // namespace tilepress
