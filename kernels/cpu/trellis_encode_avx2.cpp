// The search for trellis codes on x86 processors with AVX2.
#include "avx2_trellis_search.hpp"

namespace tilepress {

TrellisEncodeKernels avx2_trellis_encode_kernels() {
    return {encode<Avx2Search, Avx2Search>};
}

}  // namespace tilepress
