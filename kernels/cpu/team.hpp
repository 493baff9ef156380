// Threads that go through the same phases together: they share the pieces of each, and none begins the next before all
// pieces are done.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tilepress {

class Phases {
public:
    explicit Phases(std::size_t count) : next_(count) {}

    // Call body(piece) for this thread's share of 0..count; every thread of the team calls this for every phase.
    template <class Body>
    void share(std::size_t phase, int team, std::int64_t count, const Body& body) {
        std::atomic<std::int64_t>& next = next_[phase].piece;
        for (std::int64_t piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(piece);
        wait(team, static_cast<std::int64_t>(phase));
    }

private:
    // A line of the cache to itself.
    struct alignas(64) Counter {
        std::atomic<std::int64_t> piece{0};
    };
    // Looks before a thread lets others run, in case one of its team waits for this processor.
    static constexpr int kSpins = 2000;

    void wait(int team, std::int64_t phase) {
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team * (phase + 1)) {
            done_.store(phase, std::memory_order_release);
            return;
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) < phase;)
            if (++spins < kSpins)
                pause();
            else
                std::this_thread::yield();
    }
    static void pause() {
#if defined(__x86_64__) || defined(_M_X64)
        _mm_pause();
#endif
    }

    std::vector<Counter> next_;
    alignas(64) std::atomic<std::int64_t> arrived_{0};
    alignas(64) std::atomic<std::int64_t> done_{-1};
};

}  // namespace tilepress
