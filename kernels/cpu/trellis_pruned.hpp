// The M algorithm over the steps of a trellis: about `survivors` of the cheapest memories are followed, each with the
// cheapest of the followed paths into it. (Anderson and Mohan 1984, "Sequential coding algorithms".)
//
// The states that a memory leads to are one run of 2^bits values of the book, and the memories that they turn into one
// run of memories. How costly a path may be to be followed is estimated from a sample of the memories.
#pragma once

#include <algorithm>

#include "trellis_price.hpp"

namespace tilepress {
namespace {

// The most paths that a tile's steps follow, and room to write past them.
inline std::size_t list_size(const TrellisSearch& search) {
    return (static_cast<std::size_t>(kTrellisSteps + 1) << (search.window - search.bits)) + 64;
}

template <class Set, int kBits>
class PrunedPaths {
public:
    PrunedPaths(const TrellisSearch& search, const TrellisBook& book, std::uint16_t* workspace)
        : memory_bits_(search.window - kBits),
          memories_(1u << memory_bits_),
          survivors_(static_cast<std::uint32_t>(search.survivors)),
          book_(book),
          price_(book),
          reached_(workspace),
          runs_(reached_ + memories_),
          costs_(runs_ + list_size(search)) {
        std::fill_n(reached_, memories_, kUnreachable);
    }

    void begin_anywhere() {
        slack_ = kFirstSlack;
        begins_[0] = 0;
        begins_[1] = memories_;
        for (std::uint32_t memory = 0; memory < memories_; ++memory)
            runs_[memory] = static_cast<std::uint16_t>(memory << kBits);
        std::fill_n(costs_, memories_, std::uint16_t{0});
    }

    void begin_at(std::uint32_t memory) {
        slack_ = kFirstSlack;
        begins_[0] = 0;
        runs_[0] = static_cast<std::uint16_t>(memory << kBits);
        costs_[0] = 0;
        begins_[1] = 1;
        pad(1);
    }

    void advance(std::int16_t wanted, int step, std::uint32_t ending, int ending_bits) {
        extend(wanted, step);
        if (ending_bits > 0)
            for (std::uint32_t at = 0; at < memories_; ++at)
                if (((at ^ ending) & ((1u << ending_bits) - 1)) != 0) reached_[at] = kUnreachable;
        const bool is_near_end = step >= kTrellisSteps - kEndWindows * ((memory_bits_ + 2 * kBits - 1) / kBits);
        const std::uint32_t survivors = is_near_end ? survivors_ * kEndSurvivors : survivors_;
        keep(step + 1, ending_bits > 0 ? kMost : limit_for(survivors));
    }

    std::uint32_t end(int steps) const {
        const std::uint16_t *first = costs_ + begins_[steps], *last = costs_ + begins_[steps + 1];
        return runs_[std::min_element(first, last) - costs_] >> kBits;
    }

    std::uint32_t branch_to(std::uint32_t memory, std::int16_t wanted, int step) const {
        const auto mask = static_cast<std::uint16_t>(memories_ - 1);
        const std::uint32_t bits = memory & ((1u << kBits) - 1);
        const Lanes key = Set::broadcast(static_cast<std::uint16_t>(memory - bits));
        std::uint32_t best = memory, least = ~0u;
        for (std::uint32_t first = begins_[step]; first < begins_[step + 1]; first += kLanes) {
            const Lanes runs = Set::bitwise_and(Set::load(runs_ + first), Set::broadcast(mask));
            for (std::uint32_t found = Set::where_equal(runs, key); found != 0; found &= found - 1) {
                const std::uint32_t at = first + static_cast<std::uint32_t>(__builtin_ctz(found));
                if (at >= begins_[step + 1]) break;
                const std::uint32_t cost = costs_[at] + price_.of(runs_[at] | bits, wanted);
                if (cost >= least) continue;
                least = cost;
                best = runs_[at] | bits;
            }
        }
        return best;
    }

private:
    using Lanes = typename Set::Lanes;
    static constexpr unsigned kLanes = Set::kLanes;
    static_assert(kLanes == 16, "what is sampled would depend on the instruction set");
    static constexpr unsigned kTogether = kBits < 4 ? kLanes >> kBits : 1;  // runs that fill the lanes

    // Before a given end, where paths are turned from their own ways, more of them are followed for some windows.
    static constexpr int kEndWindows = 3;
    static constexpr std::uint32_t kEndSurvivors = 4;
    static constexpr std::uint16_t kMost = kUnreachable - 1;

    static constexpr int kAppended = 8;  // at a time
    static constexpr std::uint32_t kFirstSlack = 1024;

    // Paths without effect fill up the last lanes.
    void pad(std::uint32_t end) {
        std::fill_n(runs_ + end, kLanes, std::uint16_t{0});
        std::fill_n(costs_ + end, kLanes, kUnreachable);
    }

    void extend(std::int16_t wanted, int step) {
        const auto mask = static_cast<std::uint16_t>(memories_ - 1);
        const Lanes target = Set::broadcast(static_cast<std::uint16_t>(wanted));
        const Price<Set, kBits> price = price_;
        const std::int16_t* values = book_.values;
        std::uint16_t* reached = reached_;
        const std::uint16_t *run = runs_ + begins_[step], *last = runs_ + begins_[step + 1];
        for (const std::uint16_t* cost = costs_ + begins_[step]; run < last; run += kTogether, cost += kTogether) {
            const Lanes before = Set::template spread<kBits>(cost);
            for (std::uint32_t begin = 0; begin < 1u << kBits; begin += kLanes) {
                const Lanes found = Set::template load_runs<kBits>(values, run, begin);
                const Lanes path = Set::add_saturated(price(found, target), before);
                Set::template lower_runs<kBits>(reached, run, mask, begin, path);
            }
        }
    }

    // A cost that about `survivors` memories are reached for, by a sample of every eighth block of them. It lies about
    // as far above the sample's least as in the step before.
    std::uint16_t limit_for(std::uint32_t survivors) {
        const std::uint32_t blocks = memories_ >= 64 * kLanes ? 8 : 1;
        const auto count_up_to = [&](std::uint32_t limit) {
            const Lanes limits = Set::broadcast(static_cast<std::uint16_t>(limit));
            Lanes counts = Set::broadcast(0);
            for (std::uint32_t first = 0; first < memories_; first += blocks * kLanes) {
                const Lanes costs = Set::load(reached_ + first);
                counts = Set::subtract(counts, Set::equal(Set::minimum(costs, limits), costs));
            }
            return blocks * Set::sum(counts);
        };
        Lanes leasts = Set::broadcast(kMost);
        for (std::uint32_t first = 0; first < memories_; first += blocks * kLanes)
            leasts = Set::minimum(leasts, Set::load(reached_ + first));
        const std::uint32_t least = Set::least(leasts);
        std::uint32_t low = least, high = std::min<std::uint32_t>(least + slack_, kMost);
        while (count_up_to(high) < survivors) {
            if (high == kMost) return kMost;
            low = high;
            high = std::min<std::uint32_t>(high + slack_, kMost);
            slack_ *= 2;
        }
        while (high - low > 1 + slack_ / 16) {
            const std::uint32_t middle = (low + high) / 2;
            (count_up_to(middle) < survivors ? low : high) = middle;
        }
        slack_ = 1 + high - least;
        return static_cast<std::uint16_t>(high);
    }

    // Write down the paths that cost up to `limit`, and forget what was reached.
    void keep(int step, std::uint16_t limit) {
        std::uint16_t* run = runs_ + begins_[step];
        for (std::uint32_t first = 0; first < memories_; first += 64) {
            std::uint64_t kept = Set::up_to(reached_ + first, limit);
            const int count = Set::count(kept);
            // Some at a time, perhaps too many: branches that depend on how many there are cost more.
            for (int begin = 0; begin < count; begin += kAppended)
                for (int i = begin; i < begin + kAppended; ++i, kept &= kept - 1)
                    run[i] = static_cast<std::uint16_t>((first + Set::lowest(kept)) << kBits);
            run += count;
        }
        const std::uint32_t begin = begins_[step], end = static_cast<std::uint32_t>(run - runs_);
        begins_[step + 1] = end;
        std::uint16_t least = kUnreachable;
        for (std::uint32_t at = begin; at < end; ++at) {
            costs_[at] = reached_[runs_[at] >> kBits];
            least = std::min(least, costs_[at]);
        }
        for (std::uint32_t at = begin; at < end; ++at) costs_[at] = static_cast<std::uint16_t>(costs_[at] - least);
        pad(end);
        std::fill_n(reached_, memories_, kUnreachable);
    }

    int memory_bits_;
    std::uint32_t memories_;
    std::uint32_t survivors_;
    std::uint32_t slack_ = kFirstSlack;  // from the least cost to the last limit
    const TrellisBook& book_;
    Price<Set, kBits> price_;
    std::uint32_t begins_[kTrellisSteps + 2];  // of each step's survivors
    std::uint16_t* reached_;                   // [memory], the least cost of a path into it
    std::uint16_t* runs_;                      // of all survivors, memory << bits
    std::uint16_t* costs_;                     // of all survivors, above the step's least
};

}  // namespace
}  // namespace tilepress
