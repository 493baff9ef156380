#include "rans_encode.hpp"

#include <algorithm>
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

// Frequencies of at least 1 that add up to 256: from the proportions, then by the steps that cost least or gain most.
std::vector<int> frequencies_of(const std::vector<Counted>& entries, double total) {
    std::vector<int> frequencies;
    int sum = 0;
    for (const Counted& entry : entries) {
        const auto share = static_cast<int>(static_cast<double>(entry.count) / total * kRansSlots);
        frequencies.push_back(std::max(1, share));
        sum += frequencies.back();
    }
    for (; sum != kRansSlots; sum += sum < kRansSlots ? 1 : -1) {
        const int step = sum < kRansSlots ? 1 : -1;
        std::size_t best = 0;
        double best_gain = -std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < entries.size(); ++i) {
            if (frequencies[i] + step < 1) continue;
            const double gain = static_cast<double>(entries[i].count) *
                                std::log2(static_cast<double>(frequencies[i] + step) / frequencies[i]);
            if (gain > best_gain) best = i, best_gain = gain;
        }
        frequencies[best] += step;
    }
    return frequencies;
}

}  // namespace

double fit_rans_model(const std::int64_t* counts, RansModel& model) {
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
    for (std::size_t size = 2; size <= most; ++size) {
        std::vector<Counted> kept(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(size));
        double exceptions = total;
        for (const Counted& entry : kept) exceptions -= static_cast<double>(entry.count);
        kept[0].count += static_cast<std::int64_t>(exceptions);
        const std::vector<int> frequencies = frequencies_of(kept, total);
        double bits = exceptions * kRansExceptionBits;
        for (std::size_t i = 0; i < size; ++i)
            bits += static_cast<double>(kept[i].count) * (8 - std::log2(static_cast<double>(frequencies[i])));
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

RansEncoder::RansEncoder(const RansModel& model) {
    for (int entry = 0; entry < kRansEntries; ++entry) {
        const std::uint32_t frequency = model.frequencies[entry];
        if (frequency == 0) continue;
        codes_[model.symbols[entry]] = {frequency << 8, ((1u << 24) + frequency - 1) / frequency, 256 - frequency,
                                        model.starts[entry]};
        if (frequency << 8 > codes_[stand_in_].limit) stand_in_ = model.symbols[entry];
    }
}

// Put a symbol into a lane's state, which gives a byte away if it has no room. Returns where the bytes begin now.
inline std::uint8_t* RansEncoder::push(const Code& code, std::uint32_t& state, std::uint8_t* to) {
    // Without a branch, which nothing could predict.
    const std::uint32_t before = state;
    const bool is_large = before >= code.limit;
    to[-1] = static_cast<std::uint8_t>(before);
    const std::uint32_t x = is_large ? before >> 8 : before;
    // 256 (x / frequency) + x % frequency + start
    const auto quotient = static_cast<std::uint32_t>(std::uint64_t{x} * code.reciprocal >> 24);
    state = x + quotient * code.complement + code.start;
    return to - is_large;
}

std::uint8_t* RansEncoder::encode(const std::uint8_t* symbols, std::int64_t count, const std::uint8_t* cargo,
                                  std::uint8_t* room) const {
    std::uint32_t states[kRansLanes];
    for (int lane = 0; lane < kRansLanes; ++lane) states[lane] = 256u + cargo[lane];
    std::uint8_t* to = room + kRansStateBytes + count;
    std::int64_t i = count;
    for (; i % kRansLanes != 0; --i) to = push(codes_[symbols[i - 1]], states[(i - 1) % kRansLanes], to);
    for (; i > 0; i -= kRansLanes)
        for (int lane = kRansLanes - 1; lane >= 0; --lane)
            to = push(codes_[symbols[i - kRansLanes + lane]], states[lane], to);
    to -= kRansStateBytes;
    for (int lane = 0; lane < kRansLanes; ++lane) {
        to[lane] = static_cast<std::uint8_t>(states[lane]);
        to[lane + kRansLanes] = static_cast<std::uint8_t>(states[lane] >> 8);
    }
    return to;
}

}  // namespace tilepress
