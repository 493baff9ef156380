// `sz` for any processor.
#include "portable_floats.hpp"
#include "rans_portable.hpp"
#include "sz_kernels.hpp"

namespace tilepress {

SzKernels portable_sz_kernels() {
    return {decode_sz<PortableFloats, RansCodersPortable>, x_in_float32<PortableFloats>,
            multiply_sz<PortableFloats, RansCodersPortable>};
}

}  // namespace tilepress
