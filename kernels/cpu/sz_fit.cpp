#include "sz_fit.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "rans_model.hpp"
#include "sz_quantize.hpp"

namespace tilepress {
namespace {

constexpr int kSymbols = 256;
constexpr double kExceptionBits = 32;
// Steps beyond have no inverse in float32, or none that is finite.
constexpr double kLeastStep = 0x1p-126, kMostStep = 0x1p126;
// Residuals that may lie outside of what is counted: one of so many.
constexpr std::int64_t kFewOf = 512;
constexpr int kCountedBits = 15;

// How often each high part occurs at one shift.
struct HighCounts {
    std::int64_t of[kSymbols] = {};
};

struct Choice {
    SzCode code;
    HighCounts counts;
    double bits = std::numeric_limits<double>::infinity();
};

// About the bits that `fit_rans_model` will need.
double estimated_bits(const HighCounts& high, std::int64_t total) {
    std::int64_t counts[kSymbols];
    std::copy_n(high.of, kSymbols, counts);
    std::partial_sort(counts, counts + kRansEntries, counts + kSymbols, std::greater<>());
    double bits = 0;
    std::int64_t coded = 0;
    for (int entry = 0; entry < kRansEntries && counts[entry] > 0; ++entry) {
        const double cost = std::log2(static_cast<double>(total) / static_cast<double>(counts[entry]));
        bits += static_cast<double>(counts[entry]) * std::min(cost, 8.0);
        coded += counts[entry];
    }
    return bits + static_cast<double>(total - coded) * kExceptionBits;
}

// Bits of a residual without its sign.
int bits_of(std::uint32_t magnitude) {
    // The bit below the lowest, so that there is one.
    return 63 - __builtin_clzll(std::uint64_t{magnitude} << 1 | 1);
}

std::uint32_t magnitude_of(std::int32_t residual) {
    return static_cast<std::uint32_t>(residual < 0 ? ~residual : residual);
}

int bits_of_largest(const std::vector<std::int32_t>& residuals) {
    std::uint32_t all = 0;
    for (const std::int32_t residual : residuals) all |= magnitude_of(residual);
    return bits_of(all);
}

// The bits of all residuals but a few.
int bits_of_most(const std::vector<std::int32_t>& residuals) {
    std::array<std::int64_t, 33> of_bits = {};
    for (const std::int32_t residual : residuals) ++of_bits[static_cast<std::size_t>(bits_of(magnitude_of(residual)))];
    std::int64_t beyond = 0;
    std::size_t bits = 32;
    const auto few = static_cast<std::int64_t>(residuals.size()) / kFewOf;
    while (bits > 0 && beyond + of_bits[bits] <= few) beyond += of_bits[bits--];
    return static_cast<int>(bits);
}

// The best shift for residuals, and the counts that it has.
void choose_shift(const std::vector<std::int32_t>& residuals, double outlier_bits, Choice& choice) {
    const int largest = bits_of_largest(residuals);
    const int first = largest <= kCountedBits ? 0 : std::max(0, bits_of_most(residuals) - kCountedBits);
    const std::int32_t half = 1 << std::min(largest, kCountedBits);
    std::vector<std::uint32_t> counts(static_cast<std::size_t>(2 * half));
    for (const std::int32_t residual : residuals) {
        const std::int32_t high = residual >> first;
        if (high >= -half && high < half) ++counts[static_cast<std::size_t>(high + half)];
    }
    const auto total = static_cast<std::int64_t>(residuals.size());
    for (int shift = first; shift <= kSzMostShift; ++shift) {
        const auto middle = static_cast<std::int64_t>(counts.size() / 2);
        const std::int64_t reach = std::min<std::int64_t>(middle, kSzMiddle);
        HighCounts high;
        for (std::int64_t i = -reach; i < reach; ++i)
            high.of[i + kSzMiddle] = counts[static_cast<std::size_t>(middle + i)];
        const double bits = estimated_bits(high, total) + static_cast<double>(total) * shift + outlier_bits;
        if (bits < choice.bits) {
            choice.bits = bits;
            choice.code.shift = shift;
            choice.counts = high;
        }
        if (counts.size() == 2) break;
        for (std::size_t i = 0; i < counts.size() / 2; ++i) counts[i] = counts[2 * i] + counts[2 * i + 1];
        counts.resize(counts.size() / 2);
    }
}

Choice choose(const std::vector<SzBlock>& blocks, double bound, float step, Predictor predictor) {
    std::vector<std::int32_t> residuals;
    std::vector<std::uint16_t> outliers;
    double outlier_bits = 0;
    std::int64_t count = 0;
    for (const SzBlock& block : blocks) count += block.rows * block.width;
    residuals.reserve(static_cast<std::size_t>(count));
    for (const SzBlock& block : blocks) {
        quantize(block, bound, step, kSzMostInteger, predictor, outliers,
                 [&](const std::int32_t* row) { residuals.insert(residuals.end(), row, row + block.width); });
        outlier_bits += static_cast<double>(outliers.size()) * 8 * static_cast<double>(2 + size_of(block.dtype));
    }
    Choice choice;
    choice.code.step = step;
    choice.code.shift = 0;
    choice.code.predictor = predictor;
    choose_shift(residuals, outlier_bits, choice);
    return choice;
}

}  // namespace

SzCode fit_sz_code(const std::vector<SzBlock>& blocks, double bound, Predictor predictor) {
    const double step = std::min(std::max(2 * bound, kLeastStep), kMostStep);
    Choice best = choose(blocks, bound, static_cast<float>(step), predictor);
    const double power = std::exp2(std::floor(std::log2(step)));
    if (!blocks.empty() && blocks[0].dtype != Dtype::float32 && power < step) {
        Choice other = choose(blocks, bound, static_cast<float>(power), predictor);
        if (other.bits < best.bits) best = other;
    }
    // A model has two symbols or more.
    ++best.counts.of[kSzMiddle];
    ++best.counts.of[kSzMiddle - 1];
    fit_rans_model(best.counts.of, best.code.model);
    return best.code;
}

}  // namespace tilepress
