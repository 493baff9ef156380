// The Viterbi algorithm over the steps of a trellis: of all paths into a memory, the cheapest survives.
//
//     state     |  origin  |      memory      |         2^bits origins for each memory
//     branch    | memory before  |  new bits  |
//
// Only costs are written down: what origin won is found on the way back, from the costs of the step before.
#pragma once

#include <algorithm>

#include "trellis_price.hpp"

namespace tilepress {
namespace {

template <class Set, int kBits>
class ExactPaths {
public:
    ExactPaths(const TrellisSearch& search, const TrellisBook& book, std::uint16_t* workspace)
        : memory_bits_(search.window - kBits),
          memories_(1u << memory_bits_),
          price_(book),
          costs_(workspace),
          values_(reinterpret_cast<std::int16_t*>(costs_of(kTrellisSteps + 1))) {
        // The book in the order in which steps read it.
        for (std::uint32_t first = 0, at = 0; first < memories_; first += kLanes)
            for (std::uint32_t origin = 0; origin < 1u << kBits; ++origin, at += kLanes)
                std::copy_n(book.values + (origin << memory_bits_ | first), kLanes, values_ + at);
    }

    void begin_anywhere() { std::fill_n(costs_, memories_, std::uint16_t{0}); }

    void begin_at(std::uint32_t memory) {
        std::fill_n(costs_, memories_, kUnreachable);
        costs_[memory] = 0;
    }

    // Follow step `step`, whose memories must end in the lowest `ending_bits` bits of `ending`.
    void advance(std::int16_t wanted, int step, std::uint32_t ending, int ending_bits) {
        const std::uint16_t* before = costs_of(step);
        std::uint16_t* after = costs_of(step + 1);
        const std::int16_t* values = values_;
        const Lanes target = Set::broadcast(static_cast<std::uint16_t>(wanted));
        Lanes least = Set::broadcast(kUnreachable);
        for (std::uint32_t first = 0; first < memories_; first += kLanes) {
            Lanes cheapest = Set::broadcast(kUnreachable);
            for (std::uint32_t origin = 0; origin < 1u << kBits; ++origin, values += kLanes) {
                const std::uint32_t branch = origin << memory_bits_ | first;
                const Lanes cost = price_(Set::load(values), target);
                const Lanes path = Set::add_saturated(cost, Set::template spread<kBits>(before + (branch >> kBits)));
                cheapest = Set::minimum(cheapest, path);
            }
            Set::store(after + first, cheapest);
            least = Set::minimum(least, cheapest);
        }
        const Lanes all_least = Set::broadcast(Set::least(least));
        for (std::uint32_t first = 0; first < memories_; first += kLanes)
            Set::store(after + first, Set::subtract_saturated(Set::load(after + first), all_least));
        if (ending_bits == 0) return;
        for (std::uint32_t at = 0; at < memories_; ++at)
            if (((at ^ ending) & ((1u << ending_bits) - 1)) != 0) after[at] = kUnreachable;
    }

    // The memory in which the best path of `steps` steps ends.
    std::uint32_t end(int steps) const {
        const std::uint16_t* costs = costs_of(steps);
        return static_cast<std::uint32_t>(std::min_element(costs, costs + memories_) - costs);
    }

    // The best path's last branch, of those into `memory` in step `step`.
    std::uint32_t branch_to(std::uint32_t memory, std::int16_t wanted, int step) const {
        const std::uint16_t* before = costs_of(step);
        std::uint32_t best = memory, least = ~0u;
        for (std::uint32_t origin = 0; origin < 1u << kBits; ++origin) {
            const std::uint32_t branch = origin << memory_bits_ | memory;
            const std::uint32_t cost = before[branch >> kBits] + price_.of(branch, wanted);
            if (cost >= least) continue;
            least = cost;
            best = branch;
        }
        return best;
    }

private:
    using Lanes = typename Set::Lanes;
    static constexpr unsigned kLanes = Set::kLanes;

    std::uint16_t* costs_of(int step) const { return costs_ + (static_cast<std::size_t>(step) << memory_bits_); }

    int memory_bits_;
    std::uint32_t memories_;
    Price<Set, kBits> price_;
    std::uint16_t* costs_;  // [steps + 1][memory], above the least
    std::int16_t* values_;  // [memory / lanes][origin][lane]
};

}  // namespace
}  // namespace tilepress
