// `lossless` for x86 processors with AVX2, FMA and F16C.
#include "avx2_floats.hpp"
#include "lossless_kernels.hpp"
#include "rans_avx2.hpp"

namespace tilepress {
namespace {

struct Avx2Coders {
    static void decode(const RansModel& model, const RansStream& stream) {
        if (model.has_few_entries())
            rans_decode(model, RansAvx2<4>(model), stream);
        else
            rans_decode(model, RansAvx2<5>(model), stream);
    }
};

}  // namespace

LosslessKernels avx2_lossless_kernels() {
    return {decode_lossless<Avx2Floats, Avx2Coders>, x_in_float32<Avx2Floats>,
            multiply_lossless<Avx2Floats, Avx2Coders>};
}

}  // namespace tilepress
