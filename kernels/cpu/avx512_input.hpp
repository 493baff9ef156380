// x in bfloat16 or float16, in the form that the dot-product instructions read; a part of tiles_avx512.cpp.
//
// Integers and nf4 take x as 16-bit integers with one factor a strip (at most 128 columns of one group), so that the
// sum over a strip is exact, or for nf4 as exact as 16 bits of its code book. A third byte follows where one value of
// the strip is so much larger than the others that these would lose bits:
//
//     x = factor * (256 high + middle + low / 254)       signed bytes
//     sum of code * x = factor * (256 * sum of code * high + sum of code * middle + ...)
//
// e2m1 takes the 16 bits whole: of each tile, even columns before odd ones.
//
// fp8 codes are exact in bfloat16, and so is x; a float16 x is the sum of two bfloat16.
#pragma once

#include <immintrin.h>

#include "tile_multiply.hpp"

namespace tilepress {
namespace {

// 128 * 255 * 32512 is the largest sum over a strip, and fits in 31 bits.
constexpr std::int64_t kDotTiles = 8;
constexpr float kMostStep = 32512.0f;  // 127 * 256
constexpr float kBookStep = 32767.0f;
// A strip is wide when its largest magnitude is so many times the mean one, or half of what is possible.
constexpr float kWideRatio = 16.0f;
// `lacking` is at most a half, so that 254 times it fits a signed byte.
constexpr float kLowStep = 254.0f;

// What `prepare` writes: this, then the arrays, each [count][16 tiles] or [count][strips].
struct alignas(64) DotHeader {
    std::uint8_t book_high[64];    // nf4: upper bytes of the code book in 16 bits; e2m1: twice the values, signed
    std::uint8_t book_low[64];     // nf4: lower bytes
    std::uint8_t float_high[128];  // fp8: upper byte of the bfloat16 of codes 0..127
    std::uint8_t float_low[128];
    bool uses_dot;  // false: float32 follows, as float_prepare writes it
};

// Where the arrays lie; `tiles` stands for the number of strips, which is never larger.
struct DotArrays {
    std::byte* base;
    std::int64_t count;
    std::int64_t tiles;

    std::int8_t* high(std::int64_t vector) const {
        return reinterpret_cast<std::int8_t*>(base) + vector * tiles * kSide;
    }
    std::int8_t* middle(std::int64_t vector) const { return high(count + vector); }
    std::int8_t* low(std::int64_t vector) const { return high(2 * count + vector); }
    // 256 high + middle, in place of both.
    std::int16_t* words(std::int64_t vector) const { return reinterpret_cast<std::int16_t*>(high(2 * vector)); }
    float* factors(std::int64_t vector) const { return reinterpret_cast<float*>(high(3 * count)) + vector * tiles; }
    // Sums of 256 high + middle, and of low.
    std::int32_t* sums(std::int64_t vector) const {
        return reinterpret_cast<std::int32_t*>(factors(count)) + vector * tiles;
    }
    std::int32_t* low_sums(std::int64_t vector) const { return sums(count + vector); }
    bool* is_wide(std::int64_t vector) const { return reinterpret_cast<bool*>(sums(2 * count)) + vector * tiles; }
    // bfloat16 x, and what it lacks of a float16 x.
    std::uint16_t* near(std::int64_t vector) const { return reinterpret_cast<std::uint16_t*>(high(2 * vector)); }
    std::uint16_t* rest(std::int64_t vector) const { return near(count + vector); }
};

inline std::int64_t dot_prepared_bytes(const Tiles& weight, const Product& product) {
    return static_cast<std::int64_t>(sizeof(DotHeader)) + float_prepared_bytes(weight, product);
}

inline void prepare_nf4_table(DotHeader& header) {
    for (int code = 0; code < 16; ++code) {
        const auto step = static_cast<unsigned>((kNf4Book[code] + 1.0f) * kBookStep + 0.5f);
        for (int copy = 0; copy < 64; copy += 16) {
            header.book_high[copy + code] = static_cast<std::uint8_t>(step >> 8);
            header.book_low[copy + code] = static_cast<std::uint8_t>(step & 255u);
        }
    }
}

inline void prepare_e2m1_table(DotHeader& header) {
    for (int i = 0; i < 64; ++i)
        header.book_high[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(2.0f * kE2m1Book[i % 16]));
}

inline void prepare_float_table(DotHeader& header, Code code) {
    for (int i = 0; i < 128; ++i) {
        const auto byte = static_cast<std::uint8_t>(i);
        const float value =
            code == Code::e4m3 ? float_of_fp16(fp16_of_e4m3(byte)) * 256.0f : float_of_fp16(fp16_of_e5m2(byte));
        const std::uint16_t bits = bf16_of_float(value);
        header.float_high[i] = static_cast<std::uint8_t>(bits >> 8);
        header.float_low[i] = static_cast<std::uint8_t>(bits & 255);
    }
}

template <class Set>
__m512 load_x(const Product& product, std::int64_t vector, std::int64_t column) {
    const std::int64_t count = smaller(kSide, product.columns - column);
    return load_values<Set>(product.x, product.dtype, vector * product.columns + column, count);
}

inline void store_bytes(std::int8_t* to, __m512i columns) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(columns));
}

// Even columns before odd ones.
inline __m512i even_first(__m512i columns) {
    const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm512_permutexvar_epi32(order, columns);
}

// One strip of one row of x as integers. False where the steps can't express it: NaN, infinite, or too small numbers.
template <class Set, bool AsWords>
bool prepare_strip(const Product& product, std::int64_t vector, Range strip, std::int64_t number,
                   const DotArrays& arrays) {
    __m512i most = _mm512_setzero_si512();
    __m512 total = _mm512_setzero_ps();
    for (std::int64_t tile = strip.first; tile < strip.last; ++tile) {
        const __m512 magnitudes = _mm512_abs_ps(load_x<Set>(product, vector, tile * kSide));
        most = _mm512_max_epu32(most, _mm512_castps_si512(magnitudes));
        total = _mm512_add_ps(total, magnitudes);
    }
    const std::uint32_t largest_bits = _mm512_reduce_max_epu32(most);
    if (largest_bits >= 0x7f800000u || (largest_bits != 0 && largest_bits < (27u << 23))) return false;
    const float largest = float_of_bits(largest_bits);
    const auto columns = static_cast<float>((strip.last - strip.first) * kSide);
    const float wide_ratio = kWideRatio < columns / 2 ? kWideRatio : columns / 2;
    const __m512 steps = _mm512_set1_ps(largest == 0.0f ? 0.0f : kMostStep / largest);
    __m512i sum = _mm512_setzero_si512(), low_sum = _mm512_setzero_si512();
    for (std::int64_t tile = strip.first; tile < strip.last; ++tile) {
        const __m512 exact = _mm512_mul_ps(load_x<Set>(product, vector, tile * kSide), steps);
        const __m512i whole = _mm512_cvtps_epi32(exact);
        const __m512 lacking = _mm512_sub_ps(exact, _mm512_cvtepi32_ps(whole));
        __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(lacking, _mm512_set1_ps(kLowStep)));
        sum = _mm512_add_epi32(sum, whole);
        low_sum = _mm512_add_epi32(low_sum, low);
        if constexpr (AsWords) {
            low = even_first(low);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(arrays.words(vector) + tile * kSide),
                                _mm512_cvtepi32_epi16(even_first(whole)));
        } else {
            const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
            const __m512i middle = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
            store_bytes(arrays.high(vector) + tile * kSide, high);
            store_bytes(arrays.middle(vector) + tile * kSide, middle);
        }
        store_bytes(arrays.low(vector) + tile * kSide, low);
    }
    arrays.factors(vector)[number] = largest / kMostStep;
    arrays.sums(vector)[number] = _mm512_reduce_add_epi32(sum);
    arrays.low_sums(vector)[number] = _mm512_reduce_add_epi32(low_sum);
    arrays.is_wide(vector)[number] = largest > wide_ratio * (Set::sum(total) / columns);
    return true;
}

template <class Set, bool AsWords>
bool prepare_integers(const Tiles& weight, const Product& product, const DotArrays& arrays) {
    for (std::int64_t vector = 0; vector < product.count; ++vector) {
        std::int64_t number = 0;
        for (std::int64_t tile = 0; tile < weight.tiles; ++number) {
            const std::int64_t end = strip_end(weight, tile, kDotTiles);
            if (!prepare_strip<Set, AsWords>(product, vector, {tile, end}, number, arrays)) return false;
            tile = end;
        }
    }
    return true;
}

template <class Set>
void prepare_halves(const Tiles& weight, const Product& product, const DotArrays& arrays) {
    for (std::int64_t vector = 0; vector < product.count; ++vector)
        for (std::int64_t column = 0; column < weight.tiles * kSide; column += kSide) {
            const __m512 values = load_x<Set>(product, vector, column);
            std::uint16_t* near = arrays.near(vector) + column;
            Set::store_bf16(near, values);
            if (product.dtype != Dtype::float16) continue;
            // An infinite x lacks nothing.
            const __m512 lacking = _mm512_sub_ps(values, Set::load_bf16(near));
            const __mmask16 is_number = _mm512_cmp_ps_mask(lacking, lacking, _CMP_ORD_Q);
            Set::store_bf16(arrays.rest(vector) + column, _mm512_maskz_mov_ps(is_number, lacking));
        }
}

template <class Set>
void dot_prepare(const Tiles& weight, const Product& product, std::byte* prepared) {
    auto& header = *reinterpret_cast<DotHeader*>(prepared);
    std::byte* rest = prepared + sizeof(DotHeader);
    const DotArrays arrays{rest, product.count, weight.tiles};
    header.uses_dot = product.dtype != Dtype::float32;
    if (header.uses_dot && (weight.code == Code::e4m3 || weight.code == Code::e5m2)) {
        prepare_float_table(header, weight.code);
        prepare_halves<Set>(weight, product, arrays);
    } else if (header.uses_dot) {
        if (weight.code == Code::nf4) prepare_nf4_table(header);
        if (weight.code == Code::e2m1) prepare_e2m1_table(header);
        header.uses_dot = weight.code == Code::e2m1 ? prepare_integers<Set, true>(weight, product, arrays)
                                                    : prepare_integers<Set, false>(weight, product, arrays);
    }
    if (!header.uses_dot) float_prepare<Set>(weight, product, rest);
}

}  // namespace
}  // namespace tilepress
