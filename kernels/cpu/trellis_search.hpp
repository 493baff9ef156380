// The Viterbi algorithm over one tile's trellis, tail-biting.
//
// Steps are visited from the last to the first, so that a state follows from its predecessor by
//
//     state = (predecessor << bits | new bits) mod 2^window
//
// What a path's future depends on is its class, the state without its oldest `bits` bits: of all paths into a class,
// only the cheapest survives. States come in blocks of 16 neighbours. Those of a block lead to 16 neighbouring classes,
// and share the oldest bits of their state, the origin that the way back needs: it is kept in the lowest bits of the
// survivor's cost, where it also makes ties fall alike everywhere.
//
// Only blocks that hold a path within `slack` of the cheapest are followed. With unlimited slack, the path is the best
// one for its ends. The ends: a search over the steps around the seam, with free ends of its own, finds the class at
// the seam, in which the whole tile's path then begins and ends (Tseng et al. 2024, "QTIP", section 3.2).
//
// `Set` is an instruction set's arithmetic on 16 floats. No result depends on it. Everything is in an unnamed
// namespace, since each translation unit must have code of its own.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "trellis.hpp"
#include "trellis_encode.hpp"

namespace tilepress {
namespace {

constexpr float kUnreachable = 1e30f;
constexpr int kBlock = 16;

template <class Set, int kBits>
class Search {
public:
    Search(const TrellisSearch& search, const float* book)
        : window_(search.window),
          classes_(1u << (search.window - kBits)),
          survivors_(search.survivors),
          book_(book),
          costs_(classes_ + kBlock),
          next_(classes_ + kBlock),
          stamps_(classes_ / kBlock, 0),
          origins_(static_cast<std::size_t>(kTrellisSteps) * classes_) {
        active_.reserve(blocks());
        touched_.reserve(classes_ / kBlock);
    }

    // The states of all steps of the best cyclic path.
    void run(const float* wanted, std::uint16_t* states) {
        float energy = 0.0f;
        for (int step = 0; step < kTrellisSteps; ++step) energy += wanted[step] * wanted[step];
        const float slack = 1.0f + energy * kFirstSlack / static_cast<float>(1 << 2 * kBits);
        const int reach = std::min<int>(kTrellisSteps / 2, kReachWindows * ((window_ + kBits - 1) / kBits));
        begin_anywhere();
        slack_ = slack;
        for (int i = 0; i < 2 * reach; ++i) advance(wanted[(kTrellisSteps + reach - 1 - i) % kTrellisSteps], i);
        std::uint32_t seam = cheapest_class();
        for (int i = 2 * reach - 1; i >= reach; --i) seam = predecessor(state_of(seam, i));
        begin_at(seam);
        slack_ = slack;
        for (int i = 0; i < kTrellisSteps; ++i) {
            seam_bits_left_ = (kTrellisSteps - 1 - i) * kBits;
            advance(wanted[kTrellisSteps - 1 - i], i, seam);
        }
        for (int i = kTrellisSteps - 1, at = static_cast<int>(seam); i >= 0; --i) {
            const std::uint32_t state = state_of(static_cast<std::uint32_t>(at), i);
            states[kTrellisSteps - 1 - i] = static_cast<std::uint16_t>(state);
            at = static_cast<int>(predecessor(state));
        }
    }

private:
    // Where the search for a limit begins, in the distortion a step that the rate allows.
    static constexpr float kFirstSlack = 10.0f / kTrellisSteps;
    // Steps on each side of the seam that decide on it, in windows.
    static constexpr int kReachWindows = 6;
    static constexpr int kGroup = kBits < 4 ? kBlock >> kBits : 1;    // classes that lead to one block
    static constexpr int kSpread = kBits > 4 ? 1 << (kBits - 4) : 1;  // blocks that one class leads to
    static constexpr std::uint32_t kNone = ~0u;

    std::uint32_t blocks() const { return (1u << window_) / kBlock; }
    std::uint32_t state_of(std::uint32_t at, int i) const {
        return static_cast<std::uint32_t>(origins_[static_cast<std::size_t>(i) * classes_ + at]) << (window_ - kBits) |
               at;
    }
    static std::uint32_t predecessor(std::uint32_t state) { return state >> kBits; }

    void begin_anywhere() {
        std::fill(costs_.begin(), costs_.end(), 0.0f);
        active_.resize(blocks());
        for (std::uint32_t block = 0; block < blocks(); ++block) active_[block] = block;
    }

    void begin_at(std::uint32_t at) {
        const std::uint32_t group = at / kGroup * kGroup;
        std::fill_n(costs_.begin() + group, kGroup, kUnreachable);
        costs_[at] = 0.0f;
        active_.clear();
        follow(at / kGroup);
    }

    // Let the next step visit the blocks that a group of classes leads to.
    void follow(std::uint32_t group) {
        for (int i = 0; i < kSpread; ++i) active_.push_back(group * kSpread + i);
    }

    void advance(float wanted, int step, std::uint32_t seam = kNone) {
        const std::uint32_t targets = classes_ / kBlock;
        const int origin_shift = window_ - kBits - 4;
        const auto target = Set::broadcast(wanted);
        ++now_;
        touched_.clear();
        for (const std::uint32_t block : active_) {
            const auto distance = Set::subtract(Set::load(book_ + block * kBlock), target);
            const auto before = Set::template spread<kBits>(costs_.data() + (block * kBlock >> kBits));
            const auto cost = Set::template with_origin<kBits>(Set::add(Set::multiply(distance, distance), before),
                                                               block >> origin_shift);
            const std::uint32_t to = block & (targets - 1);
            float* costs = next_.data() + to * kBlock;
            if (stamps_[to] == now_) {
                Set::store(costs, Set::minimum(Set::load(costs), cost));
            } else {
                Set::store(costs, cost);
                stamps_[to] = now_;
                touched_.push_back(to);
            }
        }
        if (seam != kNone && seam_bits_left_ < window_ - kBits) close(seam);
        auto least = Set::broadcast(kUnreachable);
        for (const std::uint32_t to : touched_) least = Set::minimum(least, Set::load(next_.data() + to * kBlock));
        const bool is_closing = seam != kNone && seam_bits_left_ < window_ + kBits;
        const auto limit = Set::broadcast(is_closing ? kUnreachable : limit_above(Set::least(least)));
        std::uint8_t* origins = origins_.data() + static_cast<std::size_t>(step) * classes_;
        active_.clear();
        for (const std::uint32_t to : touched_) {
            const auto costs = Set::load(next_.data() + to * kBlock);
            Set::template store_origins<kBits>(origins + to * kBlock, costs);
            unsigned survivors = Set::up_to(costs, limit);
            for (int fold = 1; fold < kGroup; fold *= 2) survivors |= survivors >> fold;
            survivors &= kGroup == 1 ? 0xffffu : kGroup == 2 ? 0x5555u : kGroup == 4 ? 0x1111u : 0x0101u;
            for (; survivors != 0; survivors &= survivors - 1)
                follow((to * kBlock + static_cast<unsigned>(__builtin_ctz(survivors))) / kGroup);
        }
        std::swap(costs_, next_);
    }

    // A cost that at least `survivors_` classes keep to, and not many more; one that all keep to where there are fewer.
    // It lies as far above the least as in the step before, or a step of a ladder away from it.
    float limit_above(float least) {
        if (survivors_ == 0) return kUnreachable;
        constexpr float kLadder[] = {0.6f, 1.0f, 1.6f, 2.6f};
        typename Set::Limits limits;
        for (int i = 0; i < 4; ++i) limits.at(i, least + slack_ * kLadder[i]);
        for (const std::uint32_t to : touched_) limits.count(Set::load(next_.data() + to * kBlock));
        for (int i = 0; i < 4; ++i) {
            if (limits.counted(i) < survivors_) continue;
            slack_ *= kLadder[i];
            return least + slack_;
        }
        slack_ *= kLadder[3];
        return kUnreachable;
    }

    // Near the end, give up the classes from which the bits that are left can't reach the seam's.
    void close(std::uint32_t seam) {
        const std::uint32_t mask = (classes_ >> seam_bits_left_) - 1;
        for (const std::uint32_t to : touched_)
            for (std::uint32_t at = to * kBlock; at < (to + 1) * kBlock; ++at)
                if ((at & mask) != seam >> seam_bits_left_) next_[at] = kUnreachable;
    }

    std::uint32_t cheapest_class() const {
        std::uint32_t best = touched_.front() * kBlock;
        for (const std::uint32_t to : touched_)
            for (std::uint32_t at = to * kBlock; at < (to + 1) * kBlock; ++at)
                if (costs_[at] < costs_[best] || (costs_[at] == costs_[best] && at < best)) best = at;
        return best;
    }

    int window_;
    std::uint32_t classes_;
    int survivors_;
    float slack_ = 0.0f;
    const float* book_;
    std::vector<float> costs_, next_;    // of each class
    std::vector<std::uint32_t> stamps_;  // the last step that led to 16 classes
    std::vector<std::uint8_t> origins_;  // [step][class]
    std::vector<std::uint32_t> active_;  // blocks to visit
    std::vector<std::uint32_t> touched_;
    std::uint32_t now_ = 0;
    int seam_bits_left_ = 0;
};

template <class Set, int kBits>
void encode_tiles(const TrellisSearch& search, const TrellisTarget& target, const float* book, Range range) {
    Search<Set, kBits> tile_search(search, book);
    const std::int64_t columns = target.tiles * kTrellisSide;
    for (std::int64_t tile = range.first; tile < range.last; ++tile) {
        const std::int64_t corner = (tile / target.tiles * columns + tile % target.tiles) * kTrellisSide;
        float wanted[kTrellisSteps];
        std::uint16_t states[kTrellisSteps];
        for (int step = 0; step < kTrellisSteps; ++step) {
            const TrellisPlace place = trellis_place(step);
            wanted[step] = target.wanted[corner + place.row * columns + place.column];
        }
        tile_search.run(wanted, states);
        std::uint8_t* codes = target.codes + tile * 32 * kBits;
        std::memset(codes, 0, 32 * kBits);
        for (int step = 0; step < kTrellisSteps; ++step) {
            const TrellisPlace place = trellis_place(step);
            target.found[corner + place.row * columns + place.column] = book[states[step]];
            const unsigned bits = (states[step] & ((1u << kBits) - 1)) << (step * kBits % 8);
            codes[step * kBits / 8] |= static_cast<std::uint8_t>(bits);
            if (step * kBits % 8 + kBits > 8) codes[step * kBits / 8 + 1] |= static_cast<std::uint8_t>(bits >> 8);
        }
    }
}

template <class Set>
void encode(const TrellisSearch& search, const TrellisTarget& target, const float* book, Range range) {
    using Function = void (*)(const TrellisSearch&, const TrellisTarget&, const float*, Range);
    constexpr Function functions[] = {encode_tiles<Set, 1>, encode_tiles<Set, 2>, encode_tiles<Set, 3>,
                                      encode_tiles<Set, 4>, encode_tiles<Set, 5>, encode_tiles<Set, 6>,
                                      encode_tiles<Set, 7>, encode_tiles<Set, 8>};
    functions[search.bits - 1](search, target, book, range);
}

}  // namespace
}  // namespace tilepress
