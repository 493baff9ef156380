// Attention for x86 processors with AVX-512.
#include "attention_kernels.hpp"
#include "avx512_floats.hpp"

namespace tilepress {
namespace {

struct Avx512 : Avx512Floats {
    using Packed = __m512i;

    static Packed widen(const std::uint8_t* bytes) { return _mm512_cvtepu8_epi32(load_codes(bytes)); }
    template <int Bits, int Place>
    static Values field(Packed bytes) {
        if constexpr (Place != 0) bytes = _mm512_srli_epi32(bytes, Bits * Place);
        if constexpr (Bits * (Place + 1) != 8) bytes = _mm512_and_si512(bytes, _mm512_set1_epi32((1 << Bits) - 1));
        return _mm512_cvtepi32_ps(bytes);
    }
    template <int Bits, int Number>
    static Values piece(const std::uint8_t* bytes) {
        return field<Bits, Number>(widen(bytes));
    }
    template <int, int Number>
    static void store_piece(float* to, std::int64_t step, Values values) {
        store(to + Number * step, values);
    }
    // Shifted into place, a code is the float16 of a 256th of its value.
    static Values e4m3_by_256(const std::uint8_t* codes) {
        const __m256i words = _mm256_cvtepi8_epi16(load_codes(codes));
        const __m256i without_sign_twice = _mm256_set1_epi16(static_cast<short>(0xbf80));
        return _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(words, 7), without_sign_twice));
    }
};

}  // namespace

AttentionKernels avx512_attention_kernels() {
    return attention_kernels<Avx512>();
}

}  // namespace tilepress
