// The search for trellis codes in plain C++.
#include <array>

#include "trellis_search.hpp"

namespace tilepress {
namespace {

struct Portable {
    static constexpr unsigned kLanes = 16;
    using Lanes = std::array<std::uint16_t, kLanes>;

    template <class Function>
    static Lanes each(Function function) {
        Lanes values;
        for (std::size_t i = 0; i < kLanes; ++i) values[i] = static_cast<std::uint16_t>(function(i));
        return values;
    }
    static Lanes broadcast(std::uint16_t value) {
        return each([=](std::size_t) { return value; });
    }
    template <class Integer>
    static Lanes load(const Integer* from) {
        return each([=](std::size_t i) { return from[i]; });
    }
    static void store(std::uint16_t* to, const Lanes& values) { std::copy(values.begin(), values.end(), to); }
    static Lanes subtract(const Lanes& a, const Lanes& b) {
        return each([&](std::size_t i) { return a[i] - b[i]; });
    }
    static Lanes add_saturated(const Lanes& a, const Lanes& b) {
        return each([&](std::size_t i) { return std::min(a[i] + b[i], 0xffff); });
    }
    static Lanes subtract_saturated(const Lanes& a, const Lanes& b) {
        return each([&](std::size_t i) { return std::max(a[i] - b[i], 0); });
    }
    static Lanes magnitude(const Lanes& a) {
        return each([&](std::size_t i) { return std::abs(static_cast<std::int16_t>(a[i])); });
    }
    static Lanes minimum(const Lanes& a, const Lanes& b) {
        return each([&](std::size_t i) { return std::min(a[i], b[i]); });
    }
    static Lanes multiply(const Lanes& a, const Lanes& b) {
        return each([&](std::size_t i) { return static_cast<std::uint32_t>(a[i]) * b[i]; });
    }
    static Lanes bitwise_and(const Lanes& a, const Lanes& b) {
        return each([&](std::size_t i) { return a[i] & b[i]; });
    }
    static Lanes equal(const Lanes& a, const Lanes& b) {
        return each([&](std::size_t i) { return a[i] == b[i] ? 0xffff : 0; });
    }
    static std::uint32_t where_equal(const Lanes& a, const Lanes& b) {
        std::uint32_t found = 0;
        for (std::size_t i = 0; i < kLanes; ++i) found |= static_cast<std::uint32_t>(a[i] == b[i]) << i;
        return found;
    }
    static std::uint16_t least(const Lanes& values) { return *std::min_element(values.begin(), values.end()); }
    static std::uint32_t sum(const Lanes& values) {
        std::uint32_t total = 0;
        for (const std::uint16_t value : values) total += value;
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
        return each([=](std::size_t i) { return from[i >> kBits]; });
    }
    template <int kBits>
    static Lanes load_runs(const std::int16_t* book, const std::uint16_t* runs, std::uint32_t begin) {
        return each([=](std::size_t i) { return book[runs[i >> kBits] + begin + (i & ((1u << kBits) - 1))]; });
    }
    template <int kBits>
    static void lower_runs(std::uint16_t* to, const std::uint16_t* runs, std::uint16_t mask, std::uint32_t begin,
                           const Lanes& values) {
        for (std::size_t i = 0; i < kLanes; ++i) {
            std::uint16_t& value = to[(runs[i >> kBits] & mask) + begin + (i & ((1u << kBits) - 1))];
            value = std::min(value, values[i]);
        }
    }
};

}  // namespace

TrellisEncodeKernels portable_trellis_encode_kernels() {
    return {encode<Portable, Portable>};
}

}  // namespace tilepress
