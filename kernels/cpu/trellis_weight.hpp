// A weight (weight.hpp) in trellis codes.
#pragma once

#include <memory>
#include <optional>

#include "trellis.hpp"
#include "weight.hpp"

namespace tilepress {

// The sides that are rotated are as long as the codes' panels and tiles reach.
std::shared_ptr<Weight> trellis_weight(const TrellisKernels& kernels, const TrellisWeight& codes,
                                       const std::optional<RotatedSide>& columns_side,
                                       const std::optional<RotatedSide>& rows_side, std::int64_t rows,
                                       std::int64_t columns);

}  // namespace tilepress
