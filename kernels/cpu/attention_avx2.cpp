// Attention for x86 processors with AVX2, FMA and F16C.
#include "attention_kernels.hpp"
#include "avx2_floats.hpp"

namespace tilepress {
namespace {

struct Avx2 : Avx2Floats {
    struct Packed {
        __m256i low, high;
    };

    static __m256i eight_bytes(const std::uint8_t* bytes) {
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
    }
    template <int Bits, int Place>
    static __m256 eight_fields(__m256i bytes) {
        if constexpr (Place != 0) bytes = _mm256_srli_epi32(bytes, Bits * Place);
        if constexpr (Bits * (Place + 1) != 8) bytes = _mm256_and_si256(bytes, _mm256_set1_epi32((1 << Bits) - 1));
        return _mm256_cvtepi32_ps(bytes);
    }
    static Packed widen(const std::uint8_t* bytes) { return {eight_bytes(bytes), eight_bytes(bytes + 8)}; }
    template <int Bits, int Place>
    static Values field(Packed packed) {
        return {eight_fields<Bits, Place>(packed.low), eight_fields<Bits, Place>(packed.high)};
    }
    // Two fields of 8 bytes, which are widened once, instead of one field of 16.
    template <int Bits, int Number>
    static Values piece(const std::uint8_t* bytes) {
        if constexpr (Bits == 8) {
            return field<8, 0>(widen(bytes));
        } else {
            constexpr int pairs = 4 / Bits;
            constexpr int first = Number % pairs * 2;
            const __m256i eight = eight_bytes(bytes + 8 * (Number / pairs));
            return {eight_fields<Bits, first>(eight), eight_fields<Bits, first + 1>(eight)};
        }
    }
    template <int Bits, int Number>
    static void store_piece(float* to, std::int64_t step, Values values) {
        if constexpr (Bits == 8) {
            store(to, values);
        } else {
            constexpr int pairs = 4 / Bits;
            to += 8 * (Number / pairs) + Number % pairs * 2 * step;
            _mm256_storeu_ps(to, values.low);
            _mm256_storeu_ps(to + step, values.high);
        }
    }
    // Shifted into place, a code is the float16 of a 256th of its value.
    static Values e4m3_by_256(const std::uint8_t* codes) {
        const __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
        const __m256i without_sign_twice = _mm256_set1_epi16(static_cast<short>(0xbf80));
        return from_halves(_mm256_and_si256(_mm256_slli_epi16(words, 7), without_sign_twice));
    }
};

}  // namespace

AttentionKernels avx2_attention_kernels() {
    return attention_kernels<Avx2>();
}

}  // namespace tilepress
