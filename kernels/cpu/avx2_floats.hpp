// Float32 values with AVX2, FMA and F16C.
// The part of `Set` (product_values.hpp, exponential.hpp) that all families share.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tilepress {
namespace {

struct Avx2Floats {
    struct Values {
        __m256 low, high;
    };
    static constexpr std::int64_t most_vectors = 2;

    static Values broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Values load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
    static void store(float* to, Values values) {
        _mm256_storeu_ps(to, values.low);
        _mm256_storeu_ps(to + 8, values.high);
    }
    static Values add(Values a, Values b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
    static Values subtract(Values a, Values b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
    static Values multiply(Values a, Values b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
    static Values multiply_add(Values a, Values b, Values c) {
        return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
    }
    static Values maximum(Values a, Values b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
    static __m256 eight_exponents(__m256 shifted) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
    }
    static Values exponent(Values shifted) { return {eight_exponents(shifted.low), eight_exponents(shifted.high)}; }
    static float sum(Values values) {
        const __m256 eight = _mm256_add_ps(values.low, values.high);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static Values from_halves(__m256i halves) {
        return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
    }
    static __m256i sixteen_codes(const std::uint8_t* codes) {
        return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    }
    static Values from_e4m3(const std::uint8_t* codes) {
        const __m256i words = sixteen_codes(codes);
        const __m256i magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7f));
        const __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(_mm256_set1_epi16(0x7f), words), 8);
        const __m256i is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
        const __m256i finite = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign);
        const __m256i halves = _mm256_or_si256(finite, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7e00)));
        return multiply(from_halves(halves), broadcast(256.0f));
    }
    static __m256 eight_bf16(const std::uint16_t* from) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    static Values load_bf16(const std::uint16_t* from) { return {eight_bf16(from), eight_bf16(from + 8)}; }
    static Values load_fp16(const std::uint16_t* from) {
        return from_halves(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    // The upper half of each 32-bit lane after rounding, in its lower half.
    static __m256i rounded_to_bf16(__m256 values) {
        const __m256i bits = _mm256_castps_si256(values);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i raised = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
        return _mm256_blendv_epi8(_mm256_srli_epi32(raised, 16), _mm256_set1_epi32(0x7fc0), is_nan);
    }
    static void store_bf16(std::uint16_t* to, Values values) {
        const __m256i packed = _mm256_packus_epi32(rounded_to_bf16(values.low), rounded_to_bf16(values.high));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
    }
    static void store_fp16(std::uint16_t* to, Values values) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(values.low, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm256_cvtps_ph(values.high, _MM_FROUND_TO_NEAREST_INT));
    }
};

}  // namespace
}  // namespace tilepress
