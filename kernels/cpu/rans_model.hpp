// The choice of a rANS model (rans.hpp).
#pragma once

#include <cstdint>

#include "rans.hpp"

namespace tilepress {

// Bits that a symbol without an entry costs beside the entry that stands for it.
constexpr double kRansExceptionBits = 24;

// The model that codes these `counts` of 256 symbols in the fewest bits, exceptions included; returns those bits. There
// must be two symbols or more.
double fit_rans_model(const std::int64_t* counts, RansModel& model);

}  // namespace tilepress
