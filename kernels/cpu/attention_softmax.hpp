// The softmax of attention: which tokens a row sees, what is added to its scores, and their exponentials.
//
// Everything is in an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <cmath>
#include <limits>

#include "arithmetic.hpp"
#include "attention.hpp"
#include "exponential.hpp"

namespace tilepress {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// One row of queries.
struct Row {
    Range seen;        // tokens
    std::int64_t own;  // the query's token
    float slope;
    const float* bias;  // of the first token, or null

    Row() = default;
    Row(const KvCache& cache, const Attention& attention, std::int64_t sequence, std::int64_t head,
        std::int64_t query) {
        own = cache.tokens() - attention.queries + query;
        seen.last = attention.is_causal ? own + 1 : cache.tokens();
        seen.first = attention.window == 0 ? 0 : larger(0, own + 1 - attention.window);
        slope = attention.slopes == nullptr ? 0.0f : attention.slopes[head];
        const std::int64_t* steps = attention.bias_steps;
        bias = attention.bias == nullptr ? nullptr
                                         : attention.bias + sequence * steps[0] + head * steps[1] + query * steps[2];
    }
    bool sees(std::int64_t first, std::int64_t count) const { return first < seen.last && seen.first < first + count; }
};

// The softmax of one row, as far as it has come.
struct Progress {
    float highest = kLowest;
    float total = 0.0f;

    // Turn the scores of `count` tokens from `first` on into weights relative to the greatest score, filled up with
    // zeros to a multiple of 16. Returns what earlier sums are to be multiplied by.
    template <class Set>
    float weigh(const Attention& attention, const Row& row, float* scores, std::int64_t first, std::int64_t count) {
        if (attention.softcap != 0.0f)
            for (std::int64_t i = 0; i < count; ++i)
                scores[i] = attention.softcap * std::tanh(scores[i] / attention.softcap);
        if (row.slope != 0.0f)
            for (std::int64_t i = 0; i < count; ++i) scores[i] += row.slope * static_cast<float>(first + i - row.own);
        if (row.bias != nullptr)
            for (std::int64_t i = 0; i < count; ++i) scores[i] += row.bias[first + i];
        const std::int64_t filled = rounded_up(count, kSide);
        const std::int64_t begin = larger(0, smaller(row.seen.first - first, count));
        const std::int64_t end = larger(begin, smaller(row.seen.last - first, count));
        for (std::int64_t i = 0; i < begin; ++i) scores[i] = kLowest;
        for (std::int64_t i = end; i < filled; ++i) scores[i] = kLowest;

        auto highest_of = Set::broadcast(highest);
        for (std::int64_t i = 0; i < filled; i += kSide) highest_of = Set::maximum(highest_of, Set::load(scores + i));
        alignas(64) float lanes[kSide];
        Set::store(lanes, highest_of);
        float higher = highest;
        for (const float lane : lanes) higher = lane > higher ? lane : higher;

        const float base = higher == kLowest ? 0.0f : higher;
        auto sum = Set::broadcast(0.0f);
        for (std::int64_t i = 0; i < filled; i += kSide) {
            const auto weights = exponential<Set>(Set::subtract(Set::load(scores + i), Set::broadcast(base)));
            Set::store(scores + i, weights);
            sum = Set::add(sum, weights);
        }
        const float kept = std::exp(highest - base);
        total = total * kept + Set::sum(sum);
        highest = higher;
        return kept;
    }
};

}  // namespace
}  // namespace tilepress
