// `lossless` for x86 processors with AVX-512.
#include "avx512_floats.hpp"
#include "lossless_kernels.hpp"
#include "rans_avx2.hpp"

namespace tilepress {
namespace {

struct Avx512Coders {
    static void decode(const RansModel& model, const RansStream& stream) {
        if (model.has_few_entries())
            rans_decode(model, RansAvx2<4>(model), stream);
        else
            rans_decode(model, RansAvx2<5>(model), stream);
    }
};

}  // namespace

LosslessKernels avx512_lossless_kernels() {
    return {decode_lossless<Avx512Floats, Avx512Coders>, x_in_float32<Avx512Floats>,
            multiply_lossless<Avx512Floats, Avx512Coders>};
}

}  // namespace tilepress
