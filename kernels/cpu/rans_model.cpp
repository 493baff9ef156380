#include "rans_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace tilepress {
namespace {

struct Counted {
    std::int64_t count;
    std::uint8_t symbol;
};

// Bits of an entry of each frequency; none of frequency 0 is asked for.
std::array<double, kRansSlots + 1> bits_of_frequencies() {
    std::array<double, kRansSlots + 1> bits = {};
    for (std::size_t frequency = 1; frequency < bits.size(); ++frequency)
        bits[frequency] = 8 - std::log2(static_cast<double>(frequency));
    return bits;
}

// Frequencies of at least 1 that add up to 256: from the proportions, then by the steps that cost least or gain most.
void choose_frequencies(const std::vector<Counted>& entries, double total,
                        const std::array<double, kRansSlots + 1>& bits, std::vector<std::size_t>& frequencies) {
    frequencies.clear();
    std::size_t sum = 0;
    for (const Counted& entry : entries) {
        const auto share = static_cast<std::size_t>(static_cast<double>(entry.count) / total * kRansSlots);
        frequencies.push_back(std::max<std::size_t>(1, share));
        sum += frequencies.back();
    }
    while (sum != kRansSlots) {
        const bool rises = sum < kRansSlots;
        std::size_t best = 0;
        double best_gain = -std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < entries.size(); ++i) {
            const std::size_t before = frequencies[i], after = rises ? before + 1 : before - 1;
            if (after == 0) continue;
            const double gain = static_cast<double>(entries[i].count) * (bits[before] - bits[after]);
            if (gain > best_gain) best = i, best_gain = gain;
        }
        frequencies[best] = rises ? frequencies[best] + 1 : frequencies[best] - 1;
        sum = rises ? sum + 1 : sum - 1;
    }
}

}  // namespace

double fit_rans_model(const std::int64_t* counts, RansModel& model) {
    static const std::array<double, kRansSlots + 1> bits_of = bits_of_frequencies();
    std::vector<Counted> entries;
    double total = 0;
    for (int symbol = 0; symbol < 256; ++symbol) {
        if (counts[symbol] > 0) entries.push_back({counts[symbol], static_cast<std::uint8_t>(symbol)});
        total += static_cast<double>(counts[symbol]);
    }
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Counted& a, const Counted& b) { return a.count > b.count; });
    double least = std::numeric_limits<double>::infinity();
    const std::size_t most = std::min<std::size_t>(entries.size(), kRansEntries);
    std::vector<std::size_t> frequencies;
    for (std::size_t size = 2; size <= most; ++size) {
        std::vector<Counted> kept(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(size));
        double exceptions = total;
        for (const Counted& entry : kept) exceptions -= static_cast<double>(entry.count);
        kept[0].count += static_cast<std::int64_t>(exceptions);
        choose_frequencies(kept, total, bits_of, frequencies);
        double bits = exceptions * kRansExceptionBits;
        for (std::size_t i = 0; i < size; ++i) bits += static_cast<double>(kept[i].count) * bits_of[frequencies[i]];
        if (bits >= least) continue;
        least = bits;
        std::memset(&model, 0, sizeof model);
        for (std::size_t i = 0; i < size; ++i) {
            model.symbols[kRansEntries - 1 - i] = kept[i].symbol;
            model.frequencies[kRansEntries - 1 - i] = static_cast<std::uint8_t>(frequencies[i]);
        }
    }
    model.complete();
    return least;
}

}  // namespace tilepress
