// The bindings of attention (attention.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "bindings.hpp"
#include "buffers.hpp"
#include "parallel.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// More than any model has, and small enough that no product of two or three below overflows.
constexpr std::int64_t kMostHeads = std::int64_t{1} << 20;
constexpr std::align_val_t kAlignment{64};

KvLayout checked_layout(const std::string& code, int bits, std::int64_t group, std::int64_t key_size,
                        std::int64_t value_size) {
    const bool is_integer = code == "int" && (bits == 2 || bits == 4 || bits == 8);
    require(is_integer || (code == "e4m3" && bits == 8), "attention has no kernel for this code");
    require(0 < group && group <= kMostGroup && group * bits / 8 % kSide == 0, "tiles have a wrong number of tokens");
    for (const std::int64_t size : {key_size, value_size})
        require(0 < size && size <= kMostChannels && size % kSide == 0, "heads have a wrong number of channels");
    return {is_integer ? KvCode::integer : KvCode::e4m3, bits, group, key_size, value_size};
}

KvCache checked_cache(const std::string& code, int bits, std::int64_t group, std::int64_t sequences, std::int64_t heads,
                      std::int64_t key_size, std::int64_t value_size, const std::vector<Buffer>& blocks,
                      const Buffer& window_keys, const Buffer& window_values, std::int64_t room,
                      std::int64_t window_tokens, const std::string& dtype) {
    const KvLayout layout = checked_layout(code, bits, group, key_size, value_size);
    require(0 < sequences && sequences <= kMostHeads && 0 < heads && heads <= kMostHeads,
            "there are no sequences or heads, or too many");
    require(0 < room && room <= kMost && 0 <= window_tokens && window_tokens <= room,
            "the window has no room for its tokens");
    const Dtype window_dtype = dtype_named(dtype);
    const std::int64_t size = size_of(window_dtype);
    require(holds(window_keys, sequences, heads, room * key_size * size) &&
                holds(window_values, sequences, heads, room * value_size * size),
            "the window does not have the size of its tokens");
    std::vector<const std::uint8_t*> tiles;
    const std::int64_t tile_bytes = sequences * heads * layout.tile_bytes();
    for (const Buffer& block : blocks) {
        require(0 <= block.second && block.second % tile_bytes == 0, "a block is no whole number of tiles");
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(block.first);
        for (std::int64_t i = 0; i < block.second / tile_bytes; ++i) tiles.push_back(bytes + i * tile_bytes);
    }
    return {layout,
            std::move(tiles),
            sequences,
            heads,
            reinterpret_cast<const void*>(window_keys.first),
            reinterpret_cast<const void*>(window_values.first),
            window_dtype,
            room,
            window_tokens};
}

// Null where there is no such tensor.
const float* checked_floats(const Buffer& floats, std::int64_t count) {
    if (floats.second < 0) return nullptr;
    require(holds(floats, 1, count, sizeof(float)), "slopes or sinks are not one value for each head");
    return reinterpret_cast<const float*>(floats.first);
}

const float* checked_bias(const Buffer& bias, const std::array<std::int64_t, 3>& steps,
                          const std::array<std::int64_t, 3>& counts, std::int64_t tokens) {
    if (bias.second < 0) return nullptr;
    const std::int64_t values = bias.second / static_cast<std::int64_t>(sizeof(float));
    std::int64_t last = tokens;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        require(0 <= steps[i] && (steps[i] == 0 || counts[i] - 1 <= values / steps[i]), "the bias is too short");
        last += (counts[i] - 1) * steps[i];
    }
    require(last <= values, "the bias is too short");
    return reinterpret_cast<const float*>(bias.first);
}

// Work on every unit and span from several threads, where there is enough of it.
void run(const AttentionKernels& kernels, const KvCache& cache, const Attention& attention, int threads) {
    const std::int64_t units = cache.sequences * cache.heads;
    const std::int64_t spans = cache.spans();
    const std::int64_t floats = rows_of(cache, attention) * partial_floats(cache);
    const auto bytes = static_cast<std::size_t>(units * spans * floats) * sizeof(float);
    auto* partials = static_cast<float*>(::operator new(bytes, kAlignment));
    const std::int64_t values =
        cache.tokens() / spans * (cache.layout.key_size + cache.layout.value_size) * rows_of(cache, attention);
    const std::int64_t step = std::max<std::int64_t>(1, kPieceValues / std::max<std::int64_t>(values, 1));
    parallel(units * spans, step, threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i)
            kernels.attend(cache, attention, i / spans, i % spans, partials + i * floats);
    });
    for (std::int64_t unit = 0; unit < units; ++unit)
        kernels.merge(cache, attention, unit, partials + unit * spans * floats);
    ::operator delete(partials, kAlignment);
}

void attend(const std::string& instruction_set, const KvCache& cache, const Buffer& query, const Buffer& result,
            const std::string& dtype, std::int64_t heads, std::int64_t queries, double scaling, double softcap,
            bool is_causal, std::int64_t window, const Buffer& slopes, const Buffer& sinks, const Buffer& bias,
            const std::array<std::int64_t, 3>& bias_steps, int threads) {
    const AttentionKernels kernels = TILEPRESS_KERNELS(attention, instruction_set);
    require(0 < heads && heads <= kMostHeads && heads % cache.heads == 0, "heads can't share the cache's heads");
    require(0 < queries && queries <= kMostHeads && queries <= cache.tokens(), "there are more queries than tokens");
    require(0 <= window, "the window is negative");
    Attention attention{reinterpret_cast<const void*>(query.first),
                        reinterpret_cast<void*>(result.first),
                        dtype_named(dtype),
                        heads,
                        queries,
                        static_cast<float>(scaling),
                        static_cast<float>(softcap),
                        is_causal,
                        window,
                        checked_floats(slopes, heads),
                        checked_floats(sinks, heads),
                        checked_bias(bias, bias_steps, {cache.sequences, heads, queries}, cache.tokens()),
                        {bias_steps[0], bias_steps[1], bias_steps[2]}};
    const std::int64_t size = size_of(attention.dtype);
    require(holds(query, cache.sequences * heads, queries, cache.layout.key_size * size),
            "the queries do not have the size of their shape");
    require(holds(result, cache.sequences * heads, queries, cache.layout.value_size * size),
            "the result does not have the size of its shape");
    const nb::gil_scoped_release released;
    run(kernels, cache, attention, threads);
}

}  // namespace

void bind_attention(nb::module_& module) {
    nb::class_<KvCache>(module, "KvCache", "A compressed KV cache: buffers are (address, bytes).")
        .def(
            "__init__",
            [](KvCache* cache, const std::string& code, int bits, std::int64_t group, std::int64_t sequences,
               std::int64_t heads, std::int64_t key_size, std::int64_t value_size, const std::vector<Buffer>& blocks,
               const Buffer& window_keys, const Buffer& window_values, std::int64_t room, std::int64_t window_tokens,
               const std::string& dtype) {
                new (cache) KvCache(checked_cache(code, bits, group, sequences, heads, key_size, value_size, blocks,
                                                  window_keys, window_values, room, window_tokens, dtype));
            },
            "code"_a, "bits"_a, "group"_a, "sequences"_a, "heads"_a, "key_size"_a, "value_size"_a, "blocks"_a,
            "window_keys"_a, "window_values"_a, "room"_a, "window_tokens"_a, "dtype"_a);
    module.def("attention_attend", &attend, "instruction_set"_a, "cache"_a, "query"_a, "result"_a, "dtype"_a, "heads"_a,
               "queries"_a, "scaling"_a, "softcap"_a, "is_causal"_a, "window"_a, "slopes"_a, "sinks"_a, "bias"_a,
               "bias_steps"_a, "threads"_a, "Attend to the cache; write to `result`.");
}

}  // namespace tilepress
