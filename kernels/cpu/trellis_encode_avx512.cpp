// The search for trellis codes on x86 processors with AVX-512.
#include "avx2_trellis_search.hpp"

namespace tilepress {
namespace {

// Runs of values are mostly short: half a vector is enough for them.
struct Avx512Narrow : Avx2Search {
    static std::uint64_t up_to(const std::uint16_t* values, std::uint16_t limit) {
        const __m512i limits = _mm512_set1_epi16(static_cast<short>(limit));
        const __mmask32 low = _mm512_cmple_epu16_mask(_mm512_loadu_si512(values), limits);
        const __mmask32 high = _mm512_cmple_epu16_mask(_mm512_loadu_si512(values + 32), limits);
        return _cvtmask64_u64(_mm512_kunpackd(high, low));
    }
};

template <int kBits>
struct Sources {
    std::uint16_t lanes[32] = {};

    constexpr Sources() {
        for (unsigned i = 0; i < 32; ++i) lanes[i] = static_cast<std::uint16_t>(i >> kBits);
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
        if constexpr (kBits >= 5) {
            return broadcast(*from);
        } else {
            alignas(64) static constexpr Sources<kBits> kSources;
            constexpr auto kLoaded = static_cast<__mmask16>((1u << (32 >> kBits)) - 1);
            const __m256i loaded = _mm256_maskz_loadu_epi16(kLoaded, from);
            return _mm512_permutexvar_epi16(_mm512_load_si512(kSources.lanes), _mm512_castsi256_si512(loaded));
        }
    }
};

}  // namespace

TrellisEncodeKernels avx512_trellis_encode_kernels() {
    return {encode<Avx512Search, Avx512Narrow>};
}

}  // namespace tilepress
