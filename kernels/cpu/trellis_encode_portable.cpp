// The search for trellis codes in plain C++.
#include <array>

#include "floats.hpp"
#include "trellis_search.hpp"

namespace tilepress {
namespace {

struct Portable {
    using Values = std::array<float, 16>;

    template <class Function>
    static Values each(Function function) {
        Values values;
        for (std::size_t i = 0; i < 16; ++i) values[i] = function(i);
        return values;
    }
    static Values broadcast(float value) {
        return each([=](std::size_t) { return value; });
    }
    static Values load(const float* from) {
        return each([=](std::size_t i) { return from[i]; });
    }
    static void store(float* to, const Values& values) { std::copy(values.begin(), values.end(), to); }
    static Values add(const Values& a, const Values& b) {
        return each([&](std::size_t i) { return a[i] + b[i]; });
    }
    static Values subtract(const Values& a, const Values& b) {
        return each([&](std::size_t i) { return a[i] - b[i]; });
    }
    static Values multiply(const Values& a, const Values& b) {
        return each([&](std::size_t i) { return a[i] * b[i]; });
    }
    static Values minimum(const Values& a, const Values& b) {
        return each([&](std::size_t i) { return a[i] < b[i] ? a[i] : b[i]; });
    }
    static float least(const Values& values) { return *std::min_element(values.begin(), values.end()); }
    static unsigned up_to(const Values& values, const Values& limit) {
        unsigned found = 0;
        for (std::size_t i = 0; i < 16; ++i) found |= static_cast<unsigned>(values[i] <= limit[i]) << i;
        return found;
    }
    class Limits {
    public:
        void at(int i, float limit) { limits_[i] = limit; }
        void count(const Values& values) {
            for (int i = 0; i < 4; ++i)
                for (const float value : values) counts_[i] += value <= limits_[i];
        }
        int counted(int i) const { return counts_[i]; }

    private:
        float limits_[4];
        int counts_[4] = {};
    };
    template <int kBits>
    static Values spread(const float* from) {
        return each([=](std::size_t i) { return from[i >> kBits]; });
    }
    template <int kBits>
    static Values with_origin(const Values& costs, std::uint32_t origin) {
        constexpr std::uint32_t mask = ~((1u << kBits) - 1);
        return each([&](std::size_t i) { return float_of_bits((bits_of_float(costs[i]) & mask) | origin); });
    }
    template <int kBits>
    static void store_origins(std::uint8_t* to, const Values& costs) {
        constexpr std::uint32_t mask = (1u << kBits) - 1;
        for (std::size_t i = 0; i < 16; ++i) to[i] = static_cast<std::uint8_t>(bits_of_float(costs[i]) & mask);
    }
};

}  // namespace

TrellisEncodeKernels portable_trellis_encode_kernels() {
    return {encode<Portable>};
}

}  // namespace tilepress
