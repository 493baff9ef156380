// Attention for x86 processors with AVX2, FMA and F16C.
#include "attention_kernels.hpp"
#include "avx2_floats.hpp"

namespace tilepress {
namespace {

struct Avx2 : Avx2Floats {
    struct Packed {
        __m256i low, high;
    };

    static Values maximum(Values a, Values b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
    static __m256 eight_exponents(__m256 shifted) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
    }
    static Values exponent(Values shifted) { return {eight_exponents(shifted.low), eight_exponents(shifted.high)}; }
    static Packed widen(const std::uint8_t* bytes) {
        const auto eight = [&](int first) {
            return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + first)));
        };
        return {eight(0), eight(8)};
    }
    template <int Bits, int Place>
    static Values field(Packed packed) {
        const auto eight = [](__m256i bytes) {
            if constexpr (Place != 0) bytes = _mm256_srli_epi32(bytes, Bits * Place);
            if constexpr (Bits * (Place + 1) != 8) bytes = _mm256_and_si256(bytes, _mm256_set1_epi32((1 << Bits) - 1));
            return _mm256_cvtepi32_ps(bytes);
        };
        return {eight(packed.low), eight(packed.high)};
    }
};

}  // namespace

AttentionKernels avx2_attention_kernels() {
    return attention_kernels<Avx2>();
}

}  // namespace tilepress
