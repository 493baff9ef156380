// The kernels for x86 processors with AVX2, FMA and F16C.
#include <immintrin.h>

#include "avx2_dot.hpp"
#include "avx2_floats.hpp"
#include "avx2_fp8.hpp"
#include "tile_decode.hpp"
#include "tile_multiply.hpp"

namespace tilepress {
namespace {

struct Avx2 : Avx2Floats {
    using Book = Values;
    struct Table {
        __m128i low, high;  // bytes of the 16 values
    };
    static Book book(const float* values) { return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)}; }
    static __m256i eight_codes(const std::uint8_t* codes) {
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    }
    static Values from_integers(const std::uint8_t* codes) {
        return {_mm256_cvtepi32_ps(eight_codes(codes)), _mm256_cvtepi32_ps(eight_codes(codes + 8))};
    }
    static __m256 look_up(__m256i codes, Book book) {
        const __m256 from_low = _mm256_permutevar8x32_ps(book.low, codes);
        const __m256 from_high = _mm256_permutevar8x32_ps(book.high, codes);
        return _mm256_blendv_ps(from_low, from_high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
    }
    static Values from_book(const std::uint8_t* codes, Book book) {
        return {look_up(eight_codes(codes), book), look_up(eight_codes(codes + 8), book)};
    }
    static Values from_e5m2(const std::uint8_t* codes) {
        return from_halves(_mm256_slli_epi16(sixteen_codes(codes), 8));
    }
    static __m256 eight_e8m0(const std::uint8_t* codes) {
        const __m256i bytes = eight_codes(codes);
        const __m256i has_tail = _mm256_or_si256(_mm256_cmpeq_epi32(bytes, _mm256_setzero_si256()),
                                                 _mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(255)));
        const __m256i tail = _mm256_and_si256(has_tail, _mm256_set1_epi32(1 << 22));
        return _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32(bytes, 23), tail));
    }
    static Values from_e8m0(const std::uint8_t* codes) { return {eight_e8m0(codes), eight_e8m0(codes + 8)}; }
    static void store_bf16_normal(std::uint16_t* to, Values values) { store_bf16(to, values); }
    static Table table(const std::uint16_t* values) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
        const __m256i low = _mm256_and_si256(words, _mm256_set1_epi16(0x00ff));
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, _mm256_srli_epi16(words, 8)), 0xd8);
        return {_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)};
    }
    static void look_up(Table table, const std::uint8_t* codes, std::uint16_t* to) {
        const __m128i indices = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
        const __m128i low = _mm_shuffle_epi8(table.low, indices);
        const __m128i high = _mm_shuffle_epi8(table.high, indices);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi8(low, high));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm_unpackhi_epi8(low, high));
    }
    static void copy_past_cache(void* to, const void* from, std::size_t bytes) {
        auto* target = static_cast<std::byte*>(to);
        const auto* source = static_cast<const std::byte*>(from);
        if (reinterpret_cast<std::uintptr_t>(to) % 32 != 0 || bytes % 32 != 0) {
            std::memcpy(to, from, bytes);
            return;
        }
        for (std::size_t i = 0; i < bytes; i += 32)
            _mm256_stream_si256(reinterpret_cast<__m256i*>(target + i),
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i)));
    }
    static void end_copies() { _mm_sfence(); }
};

void multiply(const Tiles& weight, Range panels, const Product& product, const std::byte* prepared) {
    const auto& input = *reinterpret_cast<const DotInput*>(prepared);
    if (input.uses_dot) return dot_multiply<Avx2>(weight, panels, product, input);
    const auto* x = reinterpret_cast<const float*>(input.base());
    if (weight.code == Code::e4m3) return fp8_multiply<Avx2, Code::e4m3>(weight, panels, product, x);
    if (weight.code == Code::e5m2) return fp8_multiply<Avx2, Code::e5m2>(weight, panels, product, x);
    float_multiply<Avx2>(weight, panels, product, input.base());
}

}  // namespace

TileKernels avx2_tile_kernels() {
    return {decode<Avx2>, dot_prepared_bytes, dot_prepare<Avx2>, multiply};
}

}  // namespace tilepress
