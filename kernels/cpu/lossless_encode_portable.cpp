// Encoding of `lossless` for any processor.
#include "lossless_encode_blocks.hpp"
#include "rans_encode_portable.hpp"

namespace tilepress {

LosslessEncodeKernels portable_lossless_encode_kernels() {
    return {encode_lossless<RansPushersPortable>};
}

}  // namespace tilepress
