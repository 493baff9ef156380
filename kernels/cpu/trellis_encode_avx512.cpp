// The search for trellis codes on x86 processors with AVX-512.
#include "avx2_trellis_search.hpp"

namespace tilepress {
namespace {

// Where runs of values are short, half a vector is enough.
struct Avx512Narrow : Avx2Search {
    static std::uint32_t append_up_to(Lanes costs, Lanes limits, Lanes values, Lanes others, std::uint16_t* to,
                                      std::uint16_t* others_to) {
        const __mmask16 kept = _mm256_cmple_epu16_mask(costs, limits);
        store(to, _mm256_maskz_compress_epi16(kept, values));
        store(others_to, _mm256_maskz_compress_epi16(kept, others));
        return static_cast<std::uint32_t>(__builtin_popcount(_cvtmask16_u32(kept)));
    }
};

struct Avx512Search {
    using Lanes = __m512i;
    static constexpr unsigned kLanes = 32;

    static Lanes broadcast(std::uint16_t value) { return _mm512_set1_epi16(static_cast<short>(value)); }
    static Lanes load(const void* from) { return _mm512_loadu_si512(from); }
    static void store(std::uint16_t* to, Lanes values) { _mm512_storeu_si512(to, values); }
    static Lanes subtract(Lanes a, Lanes b) { return _mm512_sub_epi16(a, b); }
    static Lanes add_saturated(Lanes a, Lanes b) { return _mm512_adds_epu16(a, b); }
    static Lanes subtract_saturated(Lanes a, Lanes b) { return _mm512_subs_epu16(a, b); }
    static Lanes magnitude(Lanes a) { return _mm512_abs_epi16(a); }
    static Lanes minimum(Lanes a, Lanes b) { return _mm512_min_epu16(a, b); }
    static Lanes multiply(Lanes a, Lanes b) { return _mm512_mullo_epi16(a, b); }
    static std::uint16_t least(Lanes values) {
        return Avx2Search::least(
            _mm256_min_epu16(_mm512_castsi512_si256(values), _mm512_extracti64x4_epi64(values, 1)));
    }
    // Value i >> bits in lane i.
    template <int kBits>
    static Lanes spread(const std::uint16_t* from) {
        if constexpr (kBits >= 5) return broadcast(*from);
        const __m512i twos = _mm512_set1_epi32(0x00020000);
        const __m512i pairs = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        // 2 j and 2 j + 1 in the halves of each 32 bits
        const __m512i lanes = _mm512_add_epi16(
            _mm512_mullo_epi16(_mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 16)), _mm512_set1_epi16(2)),
            _mm512_srli_epi32(twos, 1));
        const __m512i sources = _mm512_srli_epi16(lanes, kBits);
        constexpr __mmask16 kLoaded = static_cast<__mmask16>((1u << (32 >> kBits)) - 1);
        return _mm512_permutexvar_epi16(sources, _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(kLoaded, from)));
    }
};

}  // namespace

TrellisEncodeKernels avx512_trellis_encode_kernels() {
    return {encode<Avx512Search, Avx512Narrow>};
}

}  // namespace tilepress
