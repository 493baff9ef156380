// The states of 32 lanes between steps (rans.hpp).
#pragma once

#include "rans.hpp"

namespace tilepress {
namespace {

struct RansBytes {
    alignas(32) std::uint8_t low[kRansLanes];
    alignas(32) std::uint8_t high[kRansLanes];
};

}  // namespace
}  // namespace tilepress
