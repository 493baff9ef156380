#include "lossless_table.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "lossless_cut.hpp"
#include "rans_model.hpp"

namespace tilepress {
namespace {

// A plane is coded where that takes less than this of its bits: decoding costs time.
constexpr double kWorthCoding = 0.97;
// Values whose bytes are counted at a time.
constexpr std::int64_t kCountedValues = 4096;

// Bits that no code needs less than.
double entropy_bits(const std::int64_t* counts, double total) {
    double bits = 0;
    for (int symbol = 0; symbol < 256; ++symbol)
        if (counts[symbol] > 0)
            bits += static_cast<double>(counts[symbol]) * std::log2(total / static_cast<double>(counts[symbol]));
    return bits;
}

}  // namespace

void count_planes(Dtype dtype, const void* values, std::int64_t count, std::int64_t* counts) {
    const PlaneCut planes = cut_of(dtype);
    const auto room = std::make_unique<PlaneRoom>();
    // Several counters, since neighbours that are alike would wait for each other.
    constexpr int counters = 4;
    std::uint32_t counted[kMostPlanes][counters][256] = {};
    static_assert(kCountedValues <= kBlockValues);
    for (std::int64_t first = 0; first < count; first += kCountedValues) {
        const std::int64_t here = std::min(kCountedValues, count - first);
        cut_values(dtype, static_cast<const std::uint8_t*>(values) + first * size_of(dtype), here, *room, 0);
        for (int plane = 0; plane < planes.count; ++plane)
            for (std::int64_t i = 0; i < here; ++i) ++counted[plane][i % counters][room->of[plane][i]];
    }
    for (int plane = 0; plane < planes.count; ++plane)
        for (int counter = 0; counter < counters; ++counter)
            for (int symbol = 0; symbol < 256; ++symbol)
                counts[256 * plane + symbol] += counted[plane][counter][symbol];
}

void write_table(Dtype dtype, const std::int64_t* counts, std::uint8_t* table) {
    const PlaneCut planes = cut_of(dtype);
    std::memset(table, 0, static_cast<std::size_t>(kTableHead + planes.count * kTablePlane));
    for (int plane = 0; plane < planes.count; ++plane, counts += 256) {
        double total = 0;
        int different = 0, some = 0;
        for (int symbol = 0; symbol < 256; ++symbol) {
            if (counts[symbol] == 0) continue;
            ++different;
            some = symbol;
            total += static_cast<double>(counts[symbol]);
        }
        PlaneMode mode = different <= 1 ? PlaneMode::constant : PlaneMode::stored;
        RansModel model;
        const double worth = kWorthCoding * planes.widths[plane] * total;
        if (different > 1 && entropy_bits(counts, total) < worth && fit_rans_model(counts, model) < worth) {
            mode = PlaneMode::coded;
            std::uint8_t* entries = table + kTableHead + plane * kTablePlane;
            std::copy_n(model.symbols, kRansEntries, entries);
            std::copy_n(model.frequencies, kRansEntries, entries + kRansEntries);
        }
        table[plane] = static_cast<std::uint8_t>(mode);
        table[kMostPlanes + plane] = static_cast<std::uint8_t>(mode == PlaneMode::constant ? some : 0);
    }
}

bool read_table(Dtype dtype, const std::uint8_t* table, PlaneCodes& codes) {
    codes.dtype = dtype;
    codes.cut = cut_of(dtype);
    for (int plane = 0; plane < codes.cut.count; ++plane) {
        PlaneCode& code = codes.planes[plane];
        if (table[plane] > static_cast<int>(PlaneMode::coded)) return false;
        code.mode = static_cast<PlaneMode>(table[plane]);
        code.constant = table[kMostPlanes + plane];
        const std::uint8_t* entries = table + kTableHead + plane * kTablePlane;
        std::copy_n(entries, kRansEntries, code.model.symbols);
        std::copy_n(entries + kRansEntries, kRansEntries, code.model.frequencies);
        if (code.mode == PlaneMode::coded && !code.model.complete()) return false;
    }
    return true;
}

}  // namespace tilepress
