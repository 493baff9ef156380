// Python's way to a decoder (decoder_step.hpp): checks every length, then makes it, or takes a step.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "buffers.hpp"
#include "decoder_step.hpp"
#include "panel_weight.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

using ProjectionParts = std::pair<std::shared_ptr<Weight>, Buffer>;
using OptionalWeight = std::optional<std::shared_ptr<Weight>>;

struct LayerParts {
    Buffer input_norm;
    ProjectionParts query, key, value;
    Buffer query_norm, key_norm;
    ProjectionParts output;
    Buffer middle_norm;
    ProjectionParts gate, up, down;
};

Activation activation_named(const std::string& name) {
    if (name == "silu") return Activation::silu;
    if (name == "gelu") return Activation::gelu;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    throw std::invalid_argument("a decoder has no activation of this name");
}

// Checks parts against the decoder's sizes.
struct Checks {
    Dtype dtype;
    std::int64_t hidden;

    const void* values(const Buffer& buffer, std::int64_t count) const {
        if (buffer.second < 0) return nullptr;
        require(holds(buffer, 1, count, size_of(dtype)), "a norm or a bias does not have one value for each channel");
        return reinterpret_cast<const void*>(buffer.first);
    }
    const void* norm(const Buffer& buffer) const {
        require(buffer.second >= 0, "a norm is missing");
        return values(buffer, hidden);
    }
    Projection projection(const ProjectionParts& parts, std::int64_t rows, std::int64_t columns) const {
        const Weight& weight = *parts.first;
        require(weight.rows() == rows && weight.columns() == columns, "a projection does not fit the decoder's sizes");
        return {parts.first, values(parts.second, rows)};
    }
    DecoderLayer layer(const LayerParts& parts, std::int64_t queries, std::int64_t keys, std::int64_t inner,
                       std::int64_t head_size) const {
        return {norm(parts.input_norm),
                ProjectionGroup({projection(parts.query, queries, hidden), projection(parts.key, keys, hidden),
                                 projection(parts.value, keys, hidden)}),
                values(parts.query_norm, head_size),
                values(parts.key_norm, head_size),
                ProjectionGroup({projection(parts.output, hidden, queries)}),
                norm(parts.middle_norm),
                ProjectionGroup({projection(parts.gate, inner, hidden), projection(parts.up, inner, hidden)}),
                ProjectionGroup({projection(parts.down, hidden, inner)})};
    }
};

Decoder checked_decoder(const std::string& instruction_set, const std::string& dtype, const OptionalWeight& embedding,
                        const std::vector<LayerParts>& layers, const Buffer& norm, const ProjectionParts& head,
                        double epsilon, const std::string& activation, double scaling, std::int64_t heads,
                        std::int64_t key_heads, std::int64_t head_size) {
    require(0 < key_heads && 0 < heads && heads <= kMost && heads % key_heads == 0, "heads can't share keys");
    require(0 < head_size && head_size <= kMostChannels && head_size % kSide == 0,
            "heads have a wrong number of channels");
    require(!layers.empty(), "a decoder has no layers");
    const Checks checks{dtype_named(dtype), head.first->columns()};
    const std::int64_t inner = layers[0].gate.first->rows();
    require(0 < inner && 0 < checks.hidden && 0 < head.first->rows(), "a projection has no rows or columns");
    std::shared_ptr<Weight> table = embedding.value_or(nullptr);
    require(!table || (table->columns() == checks.hidden && table->decodes_rows()), "the embedding does not fit");
    std::vector<DecoderLayer> checked;
    for (const LayerParts& parts : layers)
        checked.push_back(checks.layer(parts, heads * head_size, key_heads * head_size, inner, head_size));
    return {TILEPRESS_KERNELS(decoder, instruction_set),
            TILEPRESS_KERNELS(attention, instruction_set),
            checks.dtype,
            std::move(table),
            std::move(checked),
            checks.norm(norm),
            ProjectionGroup({checks.projection(head, head.first->rows(), checks.hidden)}),
            static_cast<float>(epsilon),
            activation_named(activation),
            static_cast<float>(scaling),
            heads,
            key_heads,
            head_size};
}

// The cache of one layer, whose window a step may write to.
LayerCache split(const KvCache& cache) {
    LayerCache layer{cache, cache, const_cast<void*>(cache.window_keys), const_cast<void*>(cache.window_values)};
    layer.tiles.window_tokens = layer.window.window_tokens = 0;
    layer.window.tiles.clear();
    return layer;
}

StepCache checked_cache(const std::vector<KvCache>& layers) {
    require(!layers.empty(), "the cache has no layers");
    const KvCache& first = layers[0];
    StepCache cache;
    for (const KvCache& layer : layers) {
        require(layer.sequences == first.sequences && layer.heads == first.heads && layer.room == first.room &&
                    layer.tiles.size() == first.tiles.size() && layer.window_dtype == first.window_dtype &&
                    layer.layout.key_size == first.layout.key_size && layer.layout.value_size == first.layout.key_size,
                "layers of the cache have different sizes");
        cache.layers.push_back(split(layer));
    }
    return cache;
}

void step(const Decoder& decoder, const StepCache& cache, const std::vector<std::int64_t>& tokens,
          const Buffer& embedded, std::int64_t cached, const Buffer& cosines, const Buffer& sines, const Buffer& logits,
          int threads) {
    const KvCache& window = cache.window();
    require(cache.layers.size() == decoder.layers.size() && window.heads == decoder.key_heads &&
                window.layout.key_size == decoder.head_size && window.window_dtype == decoder.dtype,
            "the cache does not have the decoder's sizes");
    require(0 <= cached && cached < window.room, "the cache has no room for a token");
    const std::int64_t sequences = window.sequences;
    require(sequences <= kMostVectors && static_cast<std::int64_t>(tokens.size()) == sequences,
            "there is not one token a sequence, or there are too many");
    const std::int64_t size = size_of(decoder.dtype);
    if (decoder.embedding) {
        for (const std::int64_t token : tokens)
            require(0 <= token && token < decoder.embedding->rows(), "a token is outside the embedding");
    } else {
        require(holds(embedded, sequences, decoder.hidden(), size), "the embeddings do not have their size");
    }
    require(holds(cosines, sequences, decoder.head_size, size) && holds(sines, sequences, decoder.head_size, size),
            "the rotary embedding does not have the size of a head");
    require(holds(logits, sequences, decoder.head.members()[0].weight->rows(), size),
            "the logits do not have the size of the head");
    decoder.for_each_weight([](const Weight& weight) { weight.check(); });
    {
        const nb::gil_scoped_release released;
        run_step(decoder, cache,
                 {tokens.data(), reinterpret_cast<const void*>(embedded.first), cached,
                  reinterpret_cast<const void*>(cosines.first), reinterpret_cast<const void*>(sines.first),
                  reinterpret_cast<void*>(logits.first)},
                 threads);
    }
    bool is_damaged = false;
    decoder.for_each_weight([&](Weight& weight) { is_damaged |= weight.was_damaged(); });
    require(!is_damaged, "a weight is damaged");
}

std::shared_ptr<Weight> dense_weight(const std::string& instruction_set, const Buffer& values, const std::string& dtype,
                                     std::int64_t rows, std::int64_t columns) {
    require(0 <= rows && rows <= kMost && 0 <= columns && columns <= kMost, "the weight's shape is out of bounds");
    const DenseMatrix matrix{reinterpret_cast<const void*>(values.first), dtype_named(dtype), rows, columns};
    require(holds(values, rows, columns, size_of(matrix.dtype)), "the values do not fit the weight's shape");
    const DecoderKernels kernels = TILEPRESS_KERNELS(decoder, instruction_set);
    return std::make_shared<PanelWeight<DenseMatrix>>(kernels.dense, rows, columns, 1,
                                                      [&](std::atomic<bool>&) { return matrix; });
}

}  // namespace

void bind_decoder(nb::module_& module) {
    nb::class_<Weight>(module, "Weight", "A weight of any codec, as a decoder multiplies by it.")
        .def_prop_ro("rows", &Weight::rows)
        .def_prop_ro("columns", &Weight::columns)
        .def_prop_ro("decodes_rows", &Weight::decodes_rows, "Whether a row can be decoded alone.");
    module.def("dense_weight", &dense_weight, "instruction_set"_a, "values"_a, "dtype"_a, "rows"_a, "columns"_a,
               "A dense matrix as the weight for a decoder.");
    nb::class_<LayerParts>(module, "DecoderLayer", "A layer; projections are (weight, bias).")
        .def(nb::init<Buffer, ProjectionParts, ProjectionParts, ProjectionParts, Buffer, Buffer, ProjectionParts,
                      Buffer, ProjectionParts, ProjectionParts, ProjectionParts>(),
             "input_norm"_a, "query"_a, "key"_a, "value"_a, "query_norm"_a, "key_norm"_a, "output"_a, "middle_norm"_a,
             "gate"_a, "up"_a, "down"_a);
    nb::class_<StepCache>(module, "DecoderCache", "Keys and values of all layers, with room for tokens to come.")
        .def(
            "__init__",
            [](StepCache* cache, const std::vector<KvCache>& layers) { new (cache) StepCache(checked_cache(layers)); },
            "layers"_a);
    nb::class_<Decoder>(module, "Decoder", "A pre-norm decoder.")
        .def(
            "__init__",
            [](Decoder* decoder, const std::string& instruction_set, const std::string& dtype,
               const OptionalWeight& embedding, const std::vector<LayerParts>& layers, const Buffer& norm,
               const ProjectionParts& head, double epsilon, const std::string& activation, double scaling,
               std::int64_t heads, std::int64_t key_heads, std::int64_t head_size) {
                new (decoder) Decoder(checked_decoder(instruction_set, dtype, embedding, layers, norm, head, epsilon,
                                                      activation, scaling, heads, key_heads, head_size));
            },
            "instruction_set"_a, "dtype"_a, "embedding"_a.none(), "layers"_a, "norm"_a, "head"_a, "epsilon"_a,
            "activation"_a, "scaling"_a, "heads"_a, "key_heads"_a, "head_size"_a)
        .def("step", &step, "cache"_a, "tokens"_a, "embedded"_a, "cached"_a, "cosines"_a, "sines"_a, "logits"_a,
             "threads"_a, "Add a token to each sequence of the cache, and write the logits of what follows it.");
}

}  // namespace tilepress
