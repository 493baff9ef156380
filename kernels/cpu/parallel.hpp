// Work shared among threads.
#pragma once

#include <cstdint>
#include <functional>

namespace tilepress {

// Call `body(first, last)` for consecutive pieces of 0..count, each of at most `step`, from `threads` threads at once.
//
// The threads are those of PyTorch's own OpenMP runtime where the process has one: its idle threads spin for a while
// after each of PyTorch's operators, and a second team would have to wait for the cores that they occupy. It behaves as
// PyTorch's operators do, after a fork too. Elsewhere each call starts threads of its own.
void parallel(std::int64_t count, std::int64_t step, int threads,
              const std::function<void(std::int64_t, std::int64_t)>& body);

// Call `body(team)` once on each of at most `threads` such threads at once; `team` is how many there are, so that they
// may wait for each other.
void together(int threads, const std::function<void(int)>& body);

}  // namespace tilepress
