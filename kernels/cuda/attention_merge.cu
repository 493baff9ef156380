// The end of attention whose tokens were split.
#include "attention.cuh"

namespace tilepress {

// Merges the partials of all splits of a row, and its sink, into the result [rows][value_size].
//
// grid rows, block 128
template <class Dtype>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_merge(const float* partials, const float* sinks, typename Dtype::Stored* result, int splits,
                    int value_size, int heads, int queries) {
    const int row = blockIdx.x, stride = value_size + kPartialExtras;
    const float* of_row = partials + static_cast<i64>(row) * splits * stride;
    const float lowest = float_of_bits(QueryRow::kLowest);
    const float sink = sinks == nullptr ? lowest : sinks[row / queries % heads];
    float highest = sink;
    for (int split = 0; split < splits; ++split) highest = max(highest, of_row[split * stride + value_size]);
    const float base = highest == lowest ? 0.0f : highest;
    float total = expf(sink - base);
    for (int split = 0; split < splits; ++split) {
        const float* of_split = of_row + split * stride + value_size;
        total += expf(of_split[0] - base) * of_split[1];
    }
    const float share = total == 0.0f ? 0.0f : 1.0f / total;
    for (int channel = threadIdx.x; channel < value_size; channel += kAttentionThreads) {
        float sum = 0.0f;
        for (int split = 0; split < splits; ++split)
            sum += of_row[split * stride + channel] * expf(of_row[split * stride + value_size] - base);
        result[static_cast<i64>(row) * value_size + channel] = Dtype::store(sum * share);
    }
}

}  // namespace tilepress
