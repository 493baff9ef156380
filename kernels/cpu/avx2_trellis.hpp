// Trellis codes with AVX2: 8 threads' worth of a tile (rows 2 m and 2 m + 1, and the rows 8 below) at a time.
//
// A 32-bit lane is thread 8 m + l. Its halves are the states of two neighbouring steps, which are two neighbouring
// columns: lanes 0..3 are eight columns of row 2 m, lanes 4..7 those of row 2 m + 1. Steps 0, 1 and 4, 5 are of these
// rows, steps 2, 3 and 6, 7 of those 8 below; steps 4 to 7 are the right half of the columns.
//
// A product with 16 bits of a state is three of 16 bits: of its lower half, and twice of its upper half.
#pragma once

#include <type_traits>

#include "avx2_floats.hpp"
#include "trellis_multiply.hpp"

namespace tilepress {
namespace {

struct Avx2Trellis : Avx2Floats {
    static Values butterflies(Values values) {
        const auto low = near_butterflies(values.low), high = near_butterflies(values.high);
        return {_mm256_add_ps(low, high), _mm256_sub_ps(low, high)};
    }
    static Values change_signs(Values values, unsigned mask) {
        return {change_eight(values.low, mask), change_eight(values.high, mask >> 8)};
    }

    template <int kBits>
    static void decode_tile(const std::uint8_t* tile, std::uint32_t mask, float* values) {
        const __m256i wide_mask = _mm256_set1_epi16(static_cast<short>(mask));
        for (int m = 0; m < 4; ++m) {
            const std::uint8_t* threads = tile + 8 * m * kBits;
            const __m256i left = byte_sums<kBits, 0>(threads, wide_mask);
            const __m256i left_below = byte_sums<kBits, 1>(threads, wide_mask);
            const __m256i right = byte_sums<kBits, 2>(threads, wide_mask);
            const __m256i right_below = byte_sums<kBits, 3>(threads, wide_mask);
            store_rows(left, right, values + 2 * m * kSide);
            store_rows(left_below, right_below, values + (2 * m + 8) * kSide);
        }
    }

    template <int kBits>
    static void multiply_tiles(const CyclicTiles<kBits>& tiles, std::uint32_t mask, const TrellisInput& x,
                               std::int32_t (*sums)[kSide]) {
        const __m256i wide_mask = _mm256_set1_epi16(static_cast<short>(mask));
        const auto decoded_now = [&](std::int64_t tile, int m) {
            const std::uint8_t* threads = tiles.tile(tile) + 8 * m * kBits;
            return
                [threads, wide_mask](auto pair) { return byte_sums<kBits, decltype(pair)::value>(threads, wide_mask); };
        };
        if (x.planes == 1) return multiply_planes<1>(tiles.count, decoded_now, x, 0, sums);
        if (x.planes == 2) return multiply_planes<2>(tiles.count, decoded_now, x, 0, sums);
        alignas(32) std::int16_t decoded[kBlockTiles][4][4][kSide];  // [tile][m][pair of steps]
        for (std::int64_t tile = 0; tile < tiles.count; ++tile)
            for (int m = 0; m < 4; ++m) {
                const auto from = decoded_now(tile, m);
                store_words(decoded[tile][m][0], from(Number<0>{}));
                store_words(decoded[tile][m][1], from(Number<1>{}));
                store_words(decoded[tile][m][2], from(Number<2>{}));
                store_words(decoded[tile][m][3], from(Number<3>{}));
            }
        const auto decoded_before = [&](std::int64_t tile, int m) {
            return [words = decoded[tile][m]](auto pair) {
                return _mm256_load_si256(reinterpret_cast<const __m256i*>(words[decltype(pair)::value]));
            };
        };
        std::int64_t plane = 0;
        for (; plane + 4 <= x.planes; plane += 4)
            multiply_planes<4>(tiles.count, decoded_before, x, plane, sums + plane);
        for (; plane < x.planes; ++plane) multiply_planes<1>(tiles.count, decoded_before, x, plane, sums + plane);
    }

private:
    template <int kNumber>
    using Number = std::integral_constant<int, kNumber>;

    // Planes `first` and those that follow; `byte_sums_of(tile, m)(pair)` are the byte sums of a pair of steps.
    template <int kPlanes, class ByteSums>
    static void multiply_planes(std::int64_t tiles, const ByteSums& byte_sums_of, const TrellisInput& x,
                                std::int64_t first, std::int32_t (*sums)[kSide]) {
        __m256i upper[kPlanes][4], lower[kPlanes][4];
        for (int m = 0; m < 4; ++m) {
            __m256i above[kPlanes], below[kPlanes];
            for (int plane = 0; plane < kPlanes; ++plane) above[plane] = below[plane] = _mm256_setzero_si256();
            const std::int16_t* steps = x.steps + first * x.width;
            for (std::int64_t tile = 0; tile < tiles; ++tile, steps += kSide) {
                const auto from = byte_sums_of(tile, m);
                add_products(from(Number<0>{}), steps, x.width, above);
                add_products(from(Number<1>{}), steps, x.width, below);
                add_products(from(Number<2>{}), steps + 8, x.width, above);
                add_products(from(Number<3>{}), steps + 8, x.width, below);
            }
            for (int plane = 0; plane < kPlanes; ++plane) {
                upper[plane][m] = above[plane];
                lower[plane][m] = below[plane];
            }
        }
        for (int plane = 0; plane < kPlanes; ++plane) {
            store_sums(upper[plane], sums[plane]);
            store_sums(lower[plane], sums[plane] + 8);
        }
    }

    template <int kPlanes>
    static void add_products(__m256i byte_sums, const std::int16_t* steps, std::int64_t width,
                             __m256i (&totals)[kPlanes]) {
        for (int plane = 0; plane < kPlanes; ++plane) {
            const auto* eight = reinterpret_cast<const __m128i*>(steps + plane * width);
            const __m256i columns = _mm256_broadcastsi128_si256(_mm_loadu_si128(eight));
            totals[plane] = _mm256_add_epi32(totals[plane], _mm256_madd_epi16(byte_sums, columns));
        }
    }

    // Of vectors m = 0..3, four lanes of row 2 m and four of row 2 m + 1: the sums of 8 rows.
    static void store_sums(const __m256i (&totals)[4], std::int32_t* sums) {
        const __m256i first = _mm256_hadd_epi32(totals[0], totals[1]), second = _mm256_hadd_epi32(totals[2], totals[3]);
        const __m256i all = _mm256_hadd_epi32(first, second);  // the even rows, then the odd ones
        const __m128i even = _mm256_castsi256_si128(all), odd = _mm256_extracti128_si256(all, 1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(sums), _mm_unpacklo_epi32(even, odd));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + 4), _mm_unpackhi_epi32(even, odd));
    }

    // The byte sums of steps 2 kPair and 2 kPair + 1 of 8 threads.
    template <int kBits, int kPair>
    static __m256i byte_sums(const std::uint8_t* threads, __m256i mask) {
        constexpr int begin = 2 * kPair * kBits, shift = begin % 8;
        const __m256i word = words<kBits, begin / 8>(threads);
        const __m256i first = shift == 0 ? word : _mm256_srli_epi32(word, shift);
        const __m256i second = _mm256_slli_epi32(word, 16 - shift - kBits);
        const __m256i states = _mm256_and_si256(_mm256_blend_epi16(first, second, 0xaa), mask);
        const __m256i lower = _mm256_set1_epi16(static_cast<short>(kTrellisMultiplier & 0xffff));
        const __m256i upper = _mm256_set1_epi16(static_cast<short>(kTrellisMultiplier >> 16));
        const __m256i low = _mm256_mullo_epi16(states, lower);
        const __m256i high = _mm256_add_epi16(_mm256_mulhi_epu16(states, lower), _mm256_mullo_epi16(states, upper));
        const __m256i ones = _mm256_set1_epi8(1);
        return _mm256_add_epi16(_mm256_maddubs_epi16(low, ones), _mm256_maddubs_epi16(high, ones));
    }

    // The 32 bits from byte `kByte` on of each of 8 threads, which are `kBits` bytes apart. Nothing beyond
    // `kBeyond` bytes after the tile is read.
    template <int kBits, int kByte>
    static __m256i words(const std::uint8_t* threads) {
        if constexpr (kBits == 4) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(threads + kByte));
        if constexpr (kBits < 4) {
            const __m256i bytes = two_loads(threads, threads + 4 * kBits);
            return _mm256_shuffle_epi8(bytes, spread<kBits, kByte>(0, 3));
        }
        constexpr int begin = kBits == 8 ? kByte : 0;
        const __m256i front = two_loads(threads + begin, threads + 4 * kBits + begin);
        const __m256i back = two_loads(threads + 2 * kBits + begin, threads + 6 * kBits + begin);
        if constexpr (kBits == 8)
            return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(front), _mm256_castsi256_ps(back), 0x88));
        return _mm256_or_si256(_mm256_shuffle_epi8(front, spread<kBits, kByte>(0, 1)),
                               _mm256_shuffle_epi8(back, spread<kBits, kByte>(2, 3)));
    }
    static __m256i two_loads(const std::uint8_t* low, const std::uint8_t* high) {
        return _mm256_set_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i*>(high)),
                                _mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
    }
    // A shuffle that puts 4 bytes of threads `first` to `last` of four into the lanes of these; the others are zero.
    template <int kBits, int kByte>
    static __m256i spread(int first, int last) {
        alignas(16) std::int8_t from[16];
        for (int i = 0; i < 16; ++i) {
            const int thread = i / 4;
            const int byte = (thread - first) * kBits + kByte + i % 4;
            from[i] = static_cast<std::int8_t>(first <= thread && thread <= last ? byte : -1);
        }
        return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
    }
    static void store_words(std::int16_t* to, __m256i words) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(to), words);
    }
    // Two rows of a tile, of which `left` and `right` have 8 columns each.
    static void store_rows(__m256i left, __m256i right, float* values) {
        store_row(_mm256_permute2x128_si256(left, right, 0x20), values);
        store_row(_mm256_permute2x128_si256(left, right, 0x31), values + kSide);
    }
    static void store_row(__m256i byte_sums, float* values) {
        const __m256i integers = _mm256_sub_epi16(byte_sums, _mm256_set1_epi16(kTrellisOffset));
        const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(integers));
        const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(integers, 1));
        _mm256_storeu_ps(values, _mm256_cvtepi32_ps(low));
        _mm256_storeu_ps(values + 8, _mm256_cvtepi32_ps(high));
    }
    // Sums and differences 1, 2 and 4 apart: the other value, plus this one or minus it.
    static __m256 near_butterflies(__m256 values) {
        const __m256 minus = _mm256_set1_ps(-0.0f), none = _mm256_setzero_ps();
        const __m256 by_one = _mm256_blend_ps(none, minus, 0xaa), by_two = _mm256_blend_ps(none, minus, 0xcc);
        const __m256 by_four = _mm256_blend_ps(none, minus, 0xf0);
        values = _mm256_add_ps(_mm256_permute_ps(values, 0xb1), _mm256_xor_ps(values, by_one));
        values = _mm256_add_ps(_mm256_permute_ps(values, 0x4e), _mm256_xor_ps(values, by_two));
        return _mm256_add_ps(_mm256_permute2f128_ps(values, values, 1), _mm256_xor_ps(values, by_four));
    }
    static __m256 change_eight(__m256 values, unsigned mask) {
        const __m256i places = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
        const __m256i bits = _mm256_sllv_epi32(_mm256_set1_epi32(static_cast<int>(mask)), places);
        return _mm256_xor_ps(values, _mm256_and_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(-0.0f)));
    }
};

}  // namespace
}  // namespace tilepress
