// The search for trellis codes in plain C++.
#include <array>

#include "trellis_search.hpp"

namespace tilepress {
namespace {

// Eight integers, a vector of the compiler's, which every processor with vectors has some of.
typedef std::uint16_t Half __attribute__((vector_size(16)));

struct Portable {
    static constexpr unsigned kLanes = 16;
    struct Lanes {
        Half low, high;
    };

    static Lanes broadcast(std::uint16_t value) { return {Half{} + value, Half{} + value}; }
    static Lanes load(const void* from) {
        Lanes values;
        std::memcpy(&values, from, sizeof(values));
        return values;
    }
    static void store(std::uint16_t* to, Lanes values) { std::memcpy(to, &values, sizeof(values)); }
    static Lanes subtract(Lanes a, Lanes b) { return {a.low - b.low, a.high - b.high}; }
    static Lanes add_saturated(Lanes a, Lanes b) {
        const Half low = a.low + b.low, high = a.high + b.high;
        return {low | (low < a.low), high | (high < a.high)};
    }
    static Lanes subtract_saturated(Lanes a, Lanes b) {
        return {(a.low - b.low) & (a.low > b.low), (a.high - b.high) & (a.high > b.high)};
    }
    static Lanes magnitude(Lanes a) { return {a.low < 0x8000 ? a.low : -a.low, a.high < 0x8000 ? a.high : -a.high}; }
    static Lanes minimum(Lanes a, Lanes b) {
        return {a.low < b.low ? a.low : b.low, a.high < b.high ? a.high : b.high};
    }
    static Lanes multiply(Lanes a, Lanes b) { return {a.low * b.low, a.high * b.high}; }
    static Lanes bitwise_and(Lanes a, Lanes b) { return {a.low & b.low, a.high & b.high}; }
    static Lanes equal(Lanes a, Lanes b) { return {a.low == b.low, a.high == b.high}; }
    static std::uint32_t where_equal(Lanes a, Lanes b) {
        const Each found = each(equal(a, b));
        std::uint32_t bits = 0;
        for (unsigned i = 0; i < kLanes; ++i) bits |= (found[i] & 1u) << i;
        return bits;
    }
    static std::uint16_t least(Lanes values) {
        const Each all = each(values);
        return *std::min_element(all.begin(), all.end());
    }
    static std::uint32_t sum(Lanes values) {
        std::uint32_t total = 0;
        for (const std::uint16_t value : each(values)) total += value;
        return total;
    }
    static std::uint64_t up_to(const std::uint16_t* values, std::uint16_t limit) {
        std::uint64_t found = 0;
        for (int i = 0; i < 64; ++i) found |= static_cast<std::uint64_t>(values[i] <= limit) << i;
        return found;
    }
    static int count(std::uint64_t bits) { return __builtin_popcountll(bits); }
    static std::uint32_t lowest(std::uint64_t bits) {
        return bits == 0 ? 64 : static_cast<std::uint32_t>(__builtin_ctzll(bits));
    }
    template <int kBits>
    static Lanes spread(const std::uint16_t* from) {
        if constexpr (kBits >= 4) return broadcast(*from);
        Each values;
        for (unsigned i = 0; i < kLanes; ++i) values[i] = from[i >> kBits];
        return load(values.data());
    }
    template <int kBits>
    static Lanes load_runs(const std::int16_t* book, const std::uint16_t* runs, std::uint32_t begin) {
        if constexpr (kBits >= 4) return load(book + runs[0] + begin);
        std::int16_t values[kLanes];
        for (unsigned i = 0; i < kLanes; i += 1u << kBits)
            std::memcpy(values + i, book + runs[i >> kBits], 2u << kBits);
        return load(values);
    }
    template <int kBits>
    static void lower_runs(std::uint16_t* to, const std::uint16_t* runs, std::uint16_t mask, std::uint32_t begin,
                           Lanes values) {
        if constexpr (kBits >= 4) {
            std::uint16_t* run = to + (runs[0] & mask) + begin;
            store(run, minimum(load(run), values));
        } else {
            const Each all = each(values);
            for (unsigned i = 0; i < kLanes; ++i) {
                std::uint16_t& value = to[(runs[i >> kBits] & mask) + (i & ((1u << kBits) - 1))];
                value = std::min(value, all[i]);
            }
        }
    }

private:
    using Each = std::array<std::uint16_t, kLanes>;

    static Each each(Lanes values) {
        Each all;
        store(all.data(), values);
        return all;
    }
};

}  // namespace

TrellisEncodeKernels portable_trellis_encode_kernels() {
    return {encode<Portable, Portable>};
}

}  // namespace tilepress
