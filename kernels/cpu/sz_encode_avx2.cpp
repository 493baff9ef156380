// Encoding of `sz` for x86 processors with AVX2.
#include "rans_encode_avx2.hpp"
#include "sz_encode_tiles.hpp"

namespace tilepress {

SzEncodeKernels avx2_sz_encode_kernels() {
    return {encode_sz<RansPushersAvx2>};
}

}  // namespace tilepress
