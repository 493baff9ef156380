// zfp streams for any processor.
#include "portable_floats.hpp"
#include "zfp_kernels.hpp"

namespace tilepress {

ZfpKernels portable_zfp_kernels() {
    return zfp_kernels<PortableFloats>();
}

}  // namespace tilepress
