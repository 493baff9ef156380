// The end of a product whose columns were split.
#include "layout.cuh"

namespace tilepress {

// Adds up what the splits of the columns gave: partials [splits][count][height] -> y [count][height].
//
// grid (values / 256), block 256
template <class Dtype>
__global__ void __launch_bounds__(kThreads) add_splits(const float* partials, const typename Dtype::Stored* bias,
                                                       typename Dtype::Stored* y, int splits, int count, int height) {
    const int place = blockIdx.x * kThreads + threadIdx.x;
    if (place >= count * height) return;
    float total = 0.0f;
    for (int split = 0; split < splits; ++split) total += partials[static_cast<i64>(split) * count * height + place];
    if (bias != nullptr) total += Dtype::load(bias[place % height]);
    y[place] = Dtype::store(total);
}

}  // namespace tilepress
