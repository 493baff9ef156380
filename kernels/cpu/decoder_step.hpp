// A decoder as it was loaded, and its step (decoder.hpp) over all threads.
#pragma once

#include <memory>
#include <vector>

#include "attention.hpp"
#include "decoder.hpp"
#include "weight.hpp"

namespace tilepress {

struct Projection {
    std::shared_ptr<Weight> weight;
    const void* bias;  // [rows], or null
};

// Projections of the same x, whose panels are shared among threads together.
class ProjectionGroup {
public:
    struct Piece {
        std::size_t member;
        Range panels;
    };

    explicit ProjectionGroup(std::vector<Projection> members);

    const std::vector<Projection>& members() const { return members_; }
    const std::vector<Piece>& pieces() const { return pieces_; }
    // The first member whose input this one reads.
    std::size_t input_of(std::size_t member) const { return inputs_[member]; }
    std::int64_t columns() const { return members_[0].weight->columns(); }

private:
    std::vector<Projection> members_;
    std::vector<Piece> pieces_;
    std::vector<std::size_t> inputs_;
};

struct DecoderLayer {
    const void* input_norm;   // [hidden]
    ProjectionGroup states;   // query, key, value
    const void* query_norm;   // [size of a head], or null
    const void* key_norm;     // [size of a head], or null
    ProjectionGroup output;   // of attention
    const void* middle_norm;  // [hidden]
    ProjectionGroup gated;    // gate, up
    ProjectionGroup down;
};

struct Decoder {
    DecoderKernels kernels;
    AttentionKernels attention;
    Dtype dtype;
    std::shared_ptr<Weight> embedding;  // null: embeddings come from outside
    std::vector<DecoderLayer> layers;
    const void* norm;  // [hidden]
    ProjectionGroup head;
    float epsilon;
    Activation activation;
    float scaling;  // of scores
    std::int64_t heads;
    std::int64_t key_heads;
    std::int64_t head_size;

    std::int64_t hidden() const { return head.columns(); }
    std::int64_t inner() const { return layers[0].down.columns(); }

    template <class Function>
    void for_each_weight(const Function& function) const {
        const auto group = [&](const ProjectionGroup& projections) {
            for (const Projection& projection : projections.members()) function(*projection.weight);
        };
        if (embedding) function(*embedding);
        for (const DecoderLayer& layer : layers) {
            group(layer.states);
            group(layer.output);
            group(layer.gated);
            group(layer.down);
        }
        group(head);
    }
};

// Keys and values of one layer: tiles, and a window with room for another token (attention.hpp).
struct LayerCache {
    KvCache tiles;   // without a window
    KvCache window;  // without tiles, and of no tokens: a step says how many there are
    void* keys;      // of the window, where a step writes
    void* values;
};

// Of all layers, which have as many tiles and as much room.
struct StepCache {
    std::vector<LayerCache> layers;

    const KvCache& window() const { return layers[0].window; }
    std::int64_t sequences() const { return window().sequences; }
    std::int64_t tile_spans() const { return layers[0].tiles.tiles.empty() ? 0 : layers[0].tiles.spans(); }
};

// One token of each sequence.
struct Step {
    const std::int64_t* tokens;  // [sequences]
    const void* embedded;        // [sequences][hidden], where the decoder has no embedding
    std::int64_t cached;         // tokens in the cache's window; keys and values of this one are added
    const void* cosines;         // [sequences][size of a head]
    const void* sines;           // [sequences][size of a head]
    void* logits;                // [sequences][rows of the head]
};

void run_step(const Decoder& decoder, const StepCache& cache, const Step& step, int threads);

}  // namespace tilepress
