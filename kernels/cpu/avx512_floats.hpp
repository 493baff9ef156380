// Float32 values with AVX-512.
// The part of `Set` (product_values.hpp, exponential.hpp) that all families share.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tilepress {
namespace {

struct Avx512Floats {
    using Values = __m512;
    static constexpr std::int64_t most_vectors = 4;

    static Values broadcast(float value) { return _mm512_set1_ps(value); }
    static Values load(const float* from) { return _mm512_loadu_ps(from); }
    static void store(float* to, Values values) { _mm512_storeu_ps(to, values); }
    static Values add(Values a, Values b) { return _mm512_add_ps(a, b); }
    static Values subtract(Values a, Values b) { return _mm512_sub_ps(a, b); }
    static Values multiply(Values a, Values b) { return _mm512_mul_ps(a, b); }
    static Values multiply_add(Values a, Values b, Values c) { return _mm512_fmadd_ps(a, b, c); }
    static Values maximum(Values a, Values b) { return _mm512_max_ps(a, b); }
    static Values exponent(Values shifted) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
    }
    static float sum(Values values) { return _mm512_reduce_add_ps(values); }
    static Values load_bf16(const std::uint16_t* from) {
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    static Values load_fp16(const std::uint16_t* from) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static __m128i load_codes(const std::uint8_t* codes) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    }
    static Values from_e4m3(const std::uint8_t* codes) {
        const __m256i words = _mm256_cvtepi8_epi16(load_codes(codes));
        const __m256i magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7f));
        const __mmask16 is_nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
        const __m256i sign = _mm256_and_si256(words, _mm256_set1_epi16(static_cast<short>(0x8000)));
        const __m256i finite = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign);
        const __m256i halves = _mm256_mask_mov_epi16(finite, is_nan, _mm256_set1_epi16(0x7e00));
        return _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0f));
    }
    static void store_bf16(std::uint16_t* to, Values values) {
        const __m512i bits = _mm512_castps_si512(values);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i raised = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
        const __m512i rounded = _mm512_mask_mov_epi32(_mm512_srli_epi32(raised, 16), is_nan, _mm512_set1_epi32(0x7fc0));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(rounded));
    }
    static void store_fp16(std::uint16_t* to, Values values) {
        const __m256i rounded = _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
    }
};

}  // namespace
}  // namespace tilepress
