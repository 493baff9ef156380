// Encoding of `lossless` for x86 processors with AVX-512: the coder is that of AVX2.
#include "lossless_encode_blocks.hpp"
#include "rans_encode_avx2.hpp"

namespace tilepress {

LosslessEncodeKernels avx512_lossless_encode_kernels() {
    return {encode_lossless<RansPushersAvx2>};
}

}  // namespace tilepress
