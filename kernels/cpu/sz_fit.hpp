// Choosing the code of a tensor for `sz` (sz.hpp): step, shift and model.
#pragma once

#include <cstdint>
#include <vector>

#include "sz_encode.hpp"

namespace tilepress {

// The code that takes the fewest bits for these blocks of a tensor.
//
// The step is twice the bound, or for 16-bit dtypes maybe the power of two below, which loses up to a bit a value but
// spares outliers: rounding the decoded value to the dtype moves it by up to half a unit in its last place, beyond the
// bound where that unit is between one and two bounds.
SzCode fit_sz_code(const std::vector<SzBlock>& blocks, double bound, Predictor predictor);

}  // namespace tilepress
