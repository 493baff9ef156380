// Decoding of rANS streams (rans.hpp), step by step of 32 symbols.
//
// An instruction set is a type `Coder` with
//
//     Coder(const RansModel&)
//     States, load(const RansBytes&), store(States, RansBytes&)
//     const std::uint8_t* step(States&, const std::uint8_t* bytes, std::uint8_t* symbols) const
//
// where `step` reads at most 32 bytes and may touch `kRansReach`; it returns where the next byte is.
#pragma once

#include <cstring>

#include "arithmetic.hpp"
#include "rans_bytes.hpp"

namespace tilepress {
namespace {

constexpr std::int64_t kRansReach = 64;

// The last bytes of a stream, followed by the zeros that stand for what is past its end.
struct RansTail {
    std::uint8_t bytes[3 * kRansReach] = {};

    // Where to go on reading after the tail's first `place` bytes; no further than where all that can be touched is 0.
    const std::uint8_t* clamp(const std::uint8_t* place) const {
        return place > bytes + 2 * kRansReach ? bytes + 2 * kRansReach : place;
    }
};

// One stream on its way.
template <class Coder>
class RansRun {
public:
    explicit RansRun(const RansStream& stream)
        : stream_(stream),
          states_(Coder::load(first_states(stream))),
          bytes_(stream.bytes + kRansStateBytes),
          symbols_(stream.symbols),
          steps_(stream.count / kRansLanes) {}

    // So many steps touch nothing behind the stream.
    std::int64_t safe_steps() const {
        const std::int64_t left = stream_.bytes + stream_.size - bytes_;
        return left < kRansReach ? 0 : smaller(steps_, (left - kRansReach) / kRansLanes + 1);
    }

    void step(const Coder& coder) {
        bytes_ = coder.step(states_, bytes_, symbols_);
        symbols_ += kRansLanes;
        --steps_;
    }

    // What is left after the last safe step.
    void finish(const RansModel& model, const Coder& coder) {
        RansTail tail;
        const std::int64_t left = stream_.bytes + stream_.size - bytes_;
        std::memcpy(tail.bytes, bytes_, static_cast<std::size_t>(smaller(left, kRansReach)));
        bytes_ = tail.bytes;
        while (steps_ > 0) {
            step(coder);
            bytes_ = tail.clamp(bytes_);
        }
        RansBytes state;
        Coder::store(states_, state);
        for (std::int64_t lane = 0; lane < stream_.count % kRansLanes; ++lane) {
            const int entry = model.entry_of_slot[state.low[lane]];
            symbols_[lane] = model.symbols[entry];
            unsigned x = model.frequencies[entry] * unsigned{state.high[lane]} + state.low[lane] - model.starts[entry];
            if (x < 256) x = x << 8 | *bytes_++;
            state.low[lane] = static_cast<std::uint8_t>(x);
            state.high[lane] = static_cast<std::uint8_t>(x >> 8);
        }
        std::memcpy(stream_.cargo, state.low, kRansLanes);
    }

private:
    static RansBytes first_states(const RansStream& stream) {
        RansBytes state;
        std::memcpy(state.low, stream.bytes, kRansLanes);
        std::memcpy(state.high, stream.bytes + kRansLanes, kRansLanes);
        return state;
    }

    const RansStream& stream_;
    typename Coder::States states_;
    const std::uint8_t* bytes_;
    std::uint8_t* symbols_;
    std::int64_t steps_;
};

template <class Coder>
void finish_run(const RansModel& model, const Coder& coder, RansRun<Coder> run) {
    for (std::int64_t steps; (steps = run.safe_steps()) > 0;)
        for (; steps > 0; --steps) run.step(coder);
    run.finish(model, coder);
}

template <class Coder>
void rans_decode(const RansModel& model, const Coder& coder, const RansStream& stream) {
    finish_run(model, coder, RansRun<Coder>(stream));
}

// Two streams of one model in turns, since each step waits for the one before.
template <class Coder>
void rans_decode(const RansModel& model, const Coder& coder, const RansStream& one, const RansStream& other) {
    RansRun<Coder> first(one), second(other);
    for (std::int64_t steps; (steps = smaller(first.safe_steps(), second.safe_steps())) > 0;)
        for (; steps > 0; --steps) {
            first.step(coder);
            second.step(coder);
        }
    finish_run(model, coder, first);
    finish_run(model, coder, second);
}

}  // namespace
}  // namespace tilepress
