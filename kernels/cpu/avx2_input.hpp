// x in bfloat16 or float16, as the integers that products with AVX2 read; a part of tiles_avx2.cpp.
//
// x has one factor a strip (at most 128 columns of one group), so that sums over a strip are exact:
//
//     x = factor * (words + rest / 2^14)        words: 16 bits; rest: 15 bits
//     words = 256 high + middle                 signed bytes
//
// `rest` counts only where one value of the strip is so much larger than the others that these would lose bits.
#pragma once

#include <immintrin.h>

#include "tile_multiply.hpp"

namespace tilepress {
namespace {

// Columns of a strip are so few that 128 * 255 * 32512 fits in 31 bits, and 128 / 16 * 2 * 15 * 128 in 15.
constexpr std::int64_t kDotTiles = 8;
constexpr float kMostStep = 32512.0f;  // 127 * 256
constexpr float kRestStep = 16384.0f;
// A strip is wide when its largest magnitude is so many times the mean one, or half of what is possible.
constexpr float kWideRatio = 16.0f;

// 16 columns of a row of x.
struct alignas(32) XTile {
    std::int16_t words[kSide];
    std::int16_t rest[kSide];
    std::int8_t high[kSide];
    std::int8_t middle[kSide];
};

// A strip of a row of x; sums are those of `words` and of `rest`.
struct XStrip {
    float factor;
    std::int32_t sum;
    std::int32_t rest_sum;
    std::int32_t is_wide;
};

// What `prepare` writes: `uses_dot`, then [count][tiles] and [count][strips], or x in float32.
struct alignas(64) DotInput {
    bool uses_dot;

    std::byte* base() const { return const_cast<std::byte*>(reinterpret_cast<const std::byte*>(this + 1)); }
    XTile* tiles(const Tiles& weight, std::int64_t vector) const {
        return reinterpret_cast<XTile*>(base()) + vector * weight.tiles;
    }
    // There are never more strips than tiles.
    XStrip* strips(const Tiles& weight, const Product& product, std::int64_t vector) const {
        return reinterpret_cast<XStrip*>(tiles(weight, product.count)) + vector * weight.tiles;
    }
};

inline std::int64_t dot_prepared_bytes(const Tiles& weight, const Product& product) {
    const std::size_t a_tile = sizeof(XTile) + sizeof(XStrip);
    static_assert(sizeof(XTile) + sizeof(XStrip) >= kSide * sizeof(float), "x in float32 takes the same place");
    return static_cast<std::int64_t>(sizeof(DotInput) +
                                     a_tile * static_cast<std::size_t>(product.count * weight.tiles));
}

template <class Set>
typename Set::Values load_x(const Product& product, std::int64_t vector, std::int64_t tile) {
    const std::int64_t count = smaller(kSide, product.columns - tile * kSide);
    return load_values<Set>(product.x, product.dtype, vector * product.columns + tile * kSide, count);
}

// 16 integers of 32 bits -> of 16 bits, in order.
inline __m256i packed(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

inline std::int32_t sum_of_lanes(__m256i sums) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

inline std::uint32_t largest_of_lanes(__m256i values) {
    const __m128i four = _mm_max_epu32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    const __m128i two = _mm_max_epu32(four, _mm_unpackhi_epi64(four, four));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32(two, 1))));
}

template <class Set>
void prepare_tile(typename Set::Values exact, XTile& to, __m256i& sum, __m256i& rest_sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i low = _mm256_cvtps_epi32(exact.low), high = _mm256_cvtps_epi32(exact.high);
    const typename Set::Values lacking = Set::subtract(exact, {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)});
    const typename Set::Values scaled = Set::multiply(lacking, Set::broadcast(kRestStep));
    const __m256i words = packed(low, high);
    const __m256i rest = packed(_mm256_cvtps_epi32(scaled.low), _mm256_cvtps_epi32(scaled.high));
    const __m256i upper = _mm256_srai_epi16(_mm256_add_epi16(words, _mm256_set1_epi16(128)), 8);
    const __m256i middle = _mm256_sub_epi16(words, _mm256_slli_epi16(upper, 8));
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(upper, middle), 0xd8);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.words), words);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.rest), rest);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.high), bytes);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, ones));
    rest_sum = _mm256_add_epi32(rest_sum, _mm256_madd_epi16(rest, ones));
}

// False where integers can't express the strip: NaN, infinite, or too small numbers.
template <class Set>
bool prepare_strip(const Product& product, std::int64_t vector, Range strip, XTile* tiles, XStrip& to) {
    const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    typename Set::Values total = Set::broadcast(0.0f);
    for (std::int64_t tile = strip.first; tile < strip.last; ++tile) {
        const auto values = load_x<Set>(product, vector, tile);
        const __m256i low = _mm256_and_si256(_mm256_castps_si256(values.low), magnitude_bits);
        const __m256i high = _mm256_and_si256(_mm256_castps_si256(values.high), magnitude_bits);
        most = _mm256_max_epu32(most, _mm256_max_epu32(low, high));
        total = Set::add(total, {_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)});
    }
    const std::uint32_t largest_bits = largest_of_lanes(most);
    if (largest_bits >= 0x7f800000u || (largest_bits != 0 && largest_bits < (27u << 23))) return false;
    const float largest = float_of_bits(largest_bits);
    const auto columns = static_cast<float>((strip.last - strip.first) * kSide);
    const float wide_ratio = kWideRatio < columns / 2 ? kWideRatio : columns / 2;
    const auto steps = Set::broadcast(largest == 0.0f ? 0.0f : kMostStep / largest);
    __m256i sum = _mm256_setzero_si256(), rest_sum = _mm256_setzero_si256();
    for (std::int64_t tile = strip.first; tile < strip.last; ++tile)
        prepare_tile<Set>(Set::multiply(load_x<Set>(product, vector, tile), steps), tiles[tile], sum, rest_sum);
    to = {largest / kMostStep, sum_of_lanes(sum), sum_of_lanes(rest_sum),
          largest > wide_ratio * (Set::sum(total) / columns)};
    return true;
}

template <class Set>
bool prepare_integers(const Tiles& weight, const Product& product, const DotInput& input) {
    for (std::int64_t vector = 0; vector < product.count; ++vector) {
        XStrip* strip = input.strips(weight, product, vector);
        for (std::int64_t tile = 0; tile < weight.tiles; ++strip) {
            const std::int64_t end = strip_end(weight, tile, kDotTiles);
            if (!prepare_strip<Set>(product, vector, {tile, end}, input.tiles(weight, vector), *strip)) return false;
            tile = end;
        }
    }
    return true;
}

template <class Set>
void dot_prepare(const Tiles& weight, const Product& product, std::byte* prepared) {
    auto& input = *reinterpret_cast<DotInput*>(prepared);
    const bool is_float_code = weight.code == Code::e4m3 || weight.code == Code::e5m2;
    input.uses_dot = !is_float_code && product.dtype != Dtype::float32 && prepare_integers<Set>(weight, product, input);
    if (!input.uses_dot) float_prepare<Set>(weight, product, input.base());
}

}  // namespace
}  // namespace tilepress
