// The kernels for x86 processors with AVX-512 and its VNNI, VBMI2 and BF16 extensions.
#include <immintrin.h>

#include "avx512_dot.hpp"
#include "avx512_floats.hpp"
#include "tile_decode.hpp"
#include "tile_multiply.hpp"

namespace tilepress {
namespace {

struct Avx512 : Avx512Floats {
    using Book = __m512;
    using Table = __m256i;

    static Book book(const float* values) { return _mm512_loadu_ps(values); }
    static Values from_integers(const std::uint8_t* codes) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_codes(codes)));
    }
    static Values from_book(const std::uint8_t* codes, Book book) {
        return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(load_codes(codes)), book);
    }
    static Values from_e5m2(const std::uint8_t* codes) {
        return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(load_codes(codes)), 8));
    }
    static Values from_e8m0(const std::uint8_t* codes) {
        const __m512i bytes = _mm512_cvtepu8_epi32(load_codes(codes));
        const __mmask16 has_tail = _mm512_cmpeq_epi32_mask(bytes, _mm512_setzero_si512()) |
                                   _mm512_cmpeq_epi32_mask(bytes, _mm512_set1_epi32(255));
        const __m512i powers = _mm512_slli_epi32(bytes, 23);
        return _mm512_castsi512_ps(_mm512_mask_or_epi32(powers, has_tail, powers, _mm512_set1_epi32(1 << 22)));
    }
    // The instruction takes subnormal numbers for zeros, which is why there are two.
    static void store_bf16_normal(std::uint16_t* to, Values values) {
        const __m256bh rounded = _mm512_cvtneps_pbh(values);
        std::memcpy(to, &rounded, sizeof rounded);
    }
    static Table table(const std::uint16_t* values) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    }
    static void look_up(Table table, const std::uint8_t* codes, std::uint16_t* to) {
        const __m256i values = _mm256_permutexvar_epi16(_mm256_cvtepu8_epi16(load_codes(codes)), table);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), values);
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

}  // namespace

TileKernels avx512_tile_kernels() {
    return {decode<Avx512>, dot_prepared_bytes, dot_prepare<Avx512>, dot_multiply<Avx512>};
}

}  // namespace tilepress
