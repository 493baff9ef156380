// `lossless` for any processor.
#include "lossless_kernels.hpp"
#include "portable_floats.hpp"
#include "rans_portable.hpp"

namespace tilepress {
namespace {

struct PortableCoders {
    static void decode(const RansModel& model, const RansStream& stream) {
        rans_decode(model, RansPortable(model), stream);
    }
};

}  // namespace

LosslessKernels portable_lossless_kernels() {
    return {decode_lossless<PortableFloats, PortableCoders>, x_in_float32<PortableFloats>,
            multiply_lossless<PortableFloats, PortableCoders>};
}

}  // namespace tilepress
