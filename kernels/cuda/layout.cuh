// What the layouts of all codecs, and the launches of all kernels, have in common.
#pragma once

#include "floats.cuh"

namespace tilepress {

constexpr int kThreads = 256;  // of every block
constexpr int kWarps = kThreads / 32;
constexpr int kSide = 16;  // of a tile; rows of a panel

}  // namespace tilepress
