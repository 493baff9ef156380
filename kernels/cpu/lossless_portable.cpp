// `lossless` for any processor.
#include "lossless_kernels.hpp"
#include "portable_floats.hpp"
#include "rans_portable.hpp"

namespace tilepress {

LosslessKernels portable_lossless_kernels() {
    return {decode_lossless<PortableFloats, RansCodersPortable>, x_in_float32<PortableFloats>,
            multiply_lossless<PortableFloats, RansCodersPortable>};
}

}  // namespace tilepress
