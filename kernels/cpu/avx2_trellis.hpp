// Trellis codes with AVX2: 8 threads' worth of a tile (rows 2 m and 2 m + 1, and the rows 8 below) at a time.
//
// Lane l of a vector holds the step of thread 8 m + l: lanes 0..3 are row 2 m, lanes 4..7 row 2 m + 1, every second
// column.
#pragma once

#include "avx2_floats.hpp"
#include "trellis_multiply.hpp"

namespace tilepress {
namespace {

struct Avx2Trellis : Avx2Floats {
    // The integers of step `kStep` of threads 8 m .. 8 m + 7. Their words begin at the last 16-bit boundary from which
    // 32 bits hold the window; what `word` has of them is kept for the next steps.
    template <int kBits, int kStep>
    static __m256 integers(const std::uint8_t* threads, __m256i mask, __m256i& word) {
        constexpr int kFirst = begin_of(kStep * kBits);
        if (kStep == 0 || kFirst != begin_of((kStep - 1) * kBits)) word = words<kBits>(threads + kFirst / 8);
        const __m256i states = _mm256_and_si256(_mm256_srli_epi32(word, kStep * kBits - kFirst), mask);
        const __m256i mixed = _mm256_mullo_epi32(states, _mm256_set1_epi32(static_cast<int>(kTrellisMultiplier)));
        const __m256i pairs = _mm256_maddubs_epi16(mixed, _mm256_set1_epi8(1));
        const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(kTrellisOffset)));
    }

    template <int kBits>
    static void decode_tile(const std::uint8_t* tile, std::uint32_t mask, float* values) {
        const __m256i wide_mask = _mm256_set1_epi32(static_cast<int>(mask));
        for (int m = 0; m < 4; ++m) {
            __m256i word;
            const std::uint8_t* threads = tile + 8 * m * kBits;
            float* to = values + 2 * m * kSide;
            store_steps<kBits, 0>(threads, wide_mask, word, to);
            store_steps<kBits, 2>(threads, wide_mask, word, to + 8 * kSide);
            store_steps<kBits, 4>(threads, wide_mask, word, to + 8);
            store_steps<kBits, 6>(threads, wide_mask, word, to + 8 * kSide + 8);
        }
    }

    template <int kBits>
    static void multiply_panel(const TrellisWeight& weight, std::int64_t panel, std::uint32_t mask, const float* x,
                               float* sums) {
        const __m256i wide_mask = _mm256_set1_epi32(static_cast<int>(mask));
        __m256 upper[4], lower[4];  // of rows 2 m and 2 m + 1, and of those 8 below
        for (int m = 0; m < 4; ++m) upper[m] = lower[m] = _mm256_setzero_ps();
        CyclicTile<kBits> codes;
        for (std::int64_t tile = 0; tile < weight.tiles; ++tile, x += kSide) {
            codes.load(tile_at<kBits>(weight, panel, tile));
            const __m256 x0 = every_second<0x88>(x), x1 = every_second<0xdd>(x);
            const __m256 x2 = every_second<0x88>(x + 8), x3 = every_second<0xdd>(x + 8);
#pragma GCC unroll 4
            for (int m = 0; m < 4; ++m) {
                __m256i word;
                const std::uint8_t* threads = codes.bytes + 8 * m * kBits;
                upper[m] = _mm256_fmadd_ps(integers<kBits, 0>(threads, wide_mask, word), x0, upper[m]);
                upper[m] = _mm256_fmadd_ps(integers<kBits, 1>(threads, wide_mask, word), x1, upper[m]);
                lower[m] = _mm256_fmadd_ps(integers<kBits, 2>(threads, wide_mask, word), x0, lower[m]);
                lower[m] = _mm256_fmadd_ps(integers<kBits, 3>(threads, wide_mask, word), x1, lower[m]);
                upper[m] = _mm256_fmadd_ps(integers<kBits, 4>(threads, wide_mask, word), x2, upper[m]);
                upper[m] = _mm256_fmadd_ps(integers<kBits, 5>(threads, wide_mask, word), x3, upper[m]);
                lower[m] = _mm256_fmadd_ps(integers<kBits, 6>(threads, wide_mask, word), x2, lower[m]);
                lower[m] = _mm256_fmadd_ps(integers<kBits, 7>(threads, wide_mask, word), x3, lower[m]);
            }
        }
        for (int m = 0; m < 4; ++m) {
            sums[2 * m] = sum_of_four(_mm256_castps256_ps128(upper[m]));
            sums[2 * m + 1] = sum_of_four(_mm256_extractf128_ps(upper[m], 1));
            sums[2 * m + 8] = sum_of_four(_mm256_castps256_ps128(lower[m]));
            sums[2 * m + 9] = sum_of_four(_mm256_extractf128_ps(lower[m], 1));
        }
    }

private:
    static constexpr int begin_of(int bit) { return bit <= 16 ? 0 : (bit - 1) / 16 * 16; }

    // A word of 32 bits of each of 8 threads, which are `kBits` bytes apart.
    template <int kBits>
    static __m256i words(const std::uint8_t* threads) {
        if constexpr (kBits == 4) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(threads));
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i at = _mm256_mullo_epi32(lanes, _mm256_set1_epi32(kBits));
        return _mm256_i32gather_epi32(reinterpret_cast<const int*>(threads), at, 1);
    }
    // Columns 0, 2, 4, 6 of eight (0x88) or 1, 3, 5, 7 (0xdd), twice.
    template <int kChoice>
    static __m256 every_second(const float* x) {
        const __m128 four = _mm_shuffle_ps(_mm_loadu_ps(x), _mm_loadu_ps(x + 4), kChoice);
        return _mm256_set_m128(four, four);
    }
    // Two steps, which hold the even and the odd columns of two rows, 8 columns each.
    template <int kBits, int kStep>
    static void store_steps(const std::uint8_t* threads, __m256i mask, __m256i& word, float* values) {
        const __m256 even = integers<kBits, kStep>(threads, mask, word);
        const __m256 odd = integers<kBits, kStep + 1>(threads, mask, word);
        const __m256 left = _mm256_unpacklo_ps(even, odd), right = _mm256_unpackhi_ps(even, odd);
        _mm256_storeu_ps(values, _mm256_permute2f128_ps(left, right, 0x20));
        _mm256_storeu_ps(values + kSide, _mm256_permute2f128_ps(left, right, 0x31));
    }
    static float sum_of_four(__m128 four) {
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
};

}  // namespace
}  // namespace tilepress
