// `sz` for any processor.
#include "portable_floats.hpp"
#include "rans_portable.hpp"
#include "sz_kernels.hpp"

namespace tilepress {
namespace {

struct PortableCoders {
    static void decode(const RansModel& model, const RansStream& stream) {
        rans_decode(model, RansPortable(model), stream);
    }
};

}  // namespace

SzKernels portable_sz_kernels() {
    return {decode_sz<PortableFloats, PortableCoders>, x_in_float32<PortableFloats>,
            multiply_sz<PortableFloats, PortableCoders>};
}

}  // namespace tilepress
