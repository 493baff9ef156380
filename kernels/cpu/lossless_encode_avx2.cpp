// Encoding of `lossless` for x86 processors with AVX2.
#include "lossless_encode_blocks.hpp"
#include "rans_encode_avx2.hpp"

namespace tilepress {

LosslessEncodeKernels avx2_lossless_encode_kernels() {
    return {encode_lossless<RansPushersAvx2>};
}

}  // namespace tilepress
