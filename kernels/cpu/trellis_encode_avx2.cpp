// The search for trellis codes on x86 processors with AVX2.
#include <immintrin.h>

#include "trellis_search.hpp"

namespace tilepress {
namespace {

struct Avx2 {
    struct Values {
        __m256 low, high;
    };

    static Values broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Values load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
    static void store(float* to, Values values) {
        _mm256_storeu_ps(to, values.low);
        _mm256_storeu_ps(to + 8, values.high);
    }
    static Values add(Values a, Values b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
    static Values subtract(Values a, Values b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
    static Values multiply(Values a, Values b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
    static Values minimum(Values a, Values b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
    static float least(Values values) {
        const __m256 eight = _mm256_min_ps(values.low, values.high);
        const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
    }
    static unsigned up_to(Values values, Values limit) {
        const auto low = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(values.low, limit.low, _CMP_LE_OQ)));
        const auto high = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(values.high, limit.high, _CMP_LE_OQ)));
        return low | high << 8;
    }
    class Limits {
    public:
        void at(int i, float limit) { limits_[i] = _mm256_set1_ps(limit); }
        void count(Values values) {
            for (int i = 0; i < 4; ++i) {
                const __m256 low = _mm256_cmp_ps(values.low, limits_[i], _CMP_LE_OQ);
                const __m256 high = _mm256_cmp_ps(values.high, limits_[i], _CMP_LE_OQ);
                counts_[i] = _mm256_sub_epi32(counts_[i], _mm256_castps_si256(low));
                counts_[i] = _mm256_sub_epi32(counts_[i], _mm256_castps_si256(high));
            }
        }
        int counted(int i) const {
            alignas(32) int lanes[8];
            _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), counts_[i]);
            return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
        }

    private:
        __m256 limits_[4];
        __m256i counts_[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                              _mm256_setzero_si256()};
    };
    // Value i >> bits in lane i.
    template <int kBits>
    static Values spread(const float* from) {
        if constexpr (kBits >= 4) {
            return broadcast(*from);
        } else {
            const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            const __m256 eight = _mm256_loadu_ps(from);
            const __m256i upper = _mm256_add_epi32(lanes, _mm256_set1_epi32(8));
            return {_mm256_permutevar8x32_ps(eight, _mm256_srli_epi32(lanes, kBits)),
                    _mm256_permutevar8x32_ps(eight, _mm256_srli_epi32(upper, kBits))};
        }
    }
    template <int kBits>
    static Values with_origin(Values costs, std::uint32_t origin) {
        const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(-(1 << kBits)));
        const __m256 bits = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(origin)));
        return {_mm256_or_ps(_mm256_and_ps(costs.low, mask), bits),
                _mm256_or_ps(_mm256_and_ps(costs.high, mask), bits)};
    }
    template <int kBits>
    static void store_origins(std::uint8_t* to, Values costs) {
        const __m256i mask = _mm256_set1_epi32((1 << kBits) - 1);
        const __m256i low = _mm256_and_si256(_mm256_castps_si256(costs.low), mask);
        const __m256i high = _mm256_and_si256(_mm256_castps_si256(costs.high), mask);
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    }
};

}  // namespace

TrellisEncodeKernels avx2_trellis_encode_kernels() {
    return {encode<Avx2>};
}

}  // namespace tilepress
