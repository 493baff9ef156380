// Encoding of `sz` for any processor.
#include "rans_encode_portable.hpp"
#include "sz_encode_tiles.hpp"

namespace tilepress {

SzEncodeKernels portable_sz_encode_kernels() {
    return {encode_sz<RansPushersPortable>};
}

}  // namespace tilepress
