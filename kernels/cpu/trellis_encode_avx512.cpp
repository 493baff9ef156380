// The search for trellis codes on x86 processors with AVX-512.
#include <immintrin.h>

#include "trellis_search.hpp"

namespace tilepress {
namespace {

struct Avx512 {
    using Values = __m512;

    static Values broadcast(float value) { return _mm512_set1_ps(value); }
    static Values load(const float* from) { return _mm512_loadu_ps(from); }
    static void store(float* to, Values values) { _mm512_storeu_ps(to, values); }
    static Values add(Values a, Values b) { return _mm512_add_ps(a, b); }
    static Values subtract(Values a, Values b) { return _mm512_sub_ps(a, b); }
    static Values multiply(Values a, Values b) { return _mm512_mul_ps(a, b); }
    static Values minimum(Values a, Values b) { return _mm512_min_ps(a, b); }
    static float least(Values values) { return _mm512_reduce_min_ps(values); }
    static unsigned up_to(Values values, Values limit) {
        return _cvtmask16_u32(_mm512_cmp_ps_mask(values, limit, _CMP_LE_OQ));
    }
    class Limits {
    public:
        void at(int i, float limit) { limits_[i] = _mm512_set1_ps(limit); }
        void count(Values values) {
            const __m512i one = _mm512_set1_epi32(1);
            for (int i = 0; i < 4; ++i) {
                const __mmask16 within = _mm512_cmp_ps_mask(values, limits_[i], _CMP_LE_OQ);
                counts_[i] = _mm512_mask_add_epi32(counts_[i], within, counts_[i], one);
            }
        }
        int counted(int i) const { return _mm512_reduce_add_epi32(counts_[i]); }

    private:
        __m512 limits_[4];
        __m512i counts_[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                              _mm512_setzero_si512()};
    };
    // Value i >> bits in lane i.
    template <int kBits>
    static Values spread(const float* from) {
        if constexpr (kBits >= 4) {
            return broadcast(*from);
        } else {
            const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            const __m512 eight = _mm512_castps256_ps512(_mm256_loadu_ps(from));
            return _mm512_permutexvar_ps(_mm512_srli_epi32(lanes, kBits), eight);
        }
    }
    template <int kBits>
    static Values with_origin(Values costs, std::uint32_t origin) {
        // (costs & mask) | origin
        const __m512i mask = _mm512_set1_epi32(-(1 << kBits));
        const __m512i bits = _mm512_set1_epi32(static_cast<int>(origin));
        return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(costs), mask, bits, 0xea));
    }
    template <int kBits>
    static void store_origins(std::uint8_t* to, Values costs) {
        const __m512i mask = _mm512_set1_epi32((1 << kBits) - 1);
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_and_si512(_mm512_castps_si512(costs), mask));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    }
};

}  // namespace

TrellisEncodeKernels avx512_trellis_encode_kernels() {
    return {encode<Avx512>};
}

}  // namespace tilepress
