#include "decoder_step.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "parallel.hpp"
#include "team.hpp"

namespace tilepress {
namespace {

// Weights that a thread multiplies by at a time: few enough that the last pieces of a phase are done at the same time.
constexpr std::int64_t kPieceWeights = std::int64_t{1} << 14;
// Cached tokens that a thread attends to at a time.
constexpr std::int64_t kSpanTokens = 2 * kMostGroup;
constexpr std::size_t kPhasesOfLayer = 5;
constexpr std::size_t kMostMembers = 3;

// Bytes that are aligned for any kernel.
class Bytes {
public:
    explicit Bytes(std::int64_t count)
        : bytes_(static_cast<std::byte*>(
              ::operator new(static_cast<std::size_t>(std::max<std::int64_t>(count, 64)), kAlignment))) {}
    ~Bytes() { ::operator delete(bytes_, kAlignment); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;

    std::byte* get() const { return bytes_; }
    float* floats() const { return reinterpret_cast<float*>(bytes_); }

private:
    static constexpr std::align_val_t kAlignment{64};
    std::byte* bytes_;
};

// The largest value of `function` over all groups of projections but the head.
template <class Function>
std::int64_t largest(const Decoder& decoder, const Function& function) {
    std::int64_t most = 0;
    for (const DecoderLayer& layer : decoder.layers)
        for (const ProjectionGroup* group : {&layer.states, &layer.output, &layer.gated, &layer.down})
            for (const Projection& projection : group->members()) most = std::max(most, function(*projection.weight));
    return most;
}

// What threads share: the results of products, of two phases in turns since a thread may still read those of the last
// one, and of attention.
struct Shared {
    const Decoder& decoder;
    const StepCache& cache;
    const Step& step;
    std::int64_t count;  // sequences
    std::int64_t result_bytes;
    std::int64_t sum_floats;
    std::int64_t spans;   // those of tiles come first
    Attention attention;  // without queries
    Phases phases;
    Bytes results;
    Bytes sums;
    Bytes partials;

    Shared(const Decoder& decoder, const StepCache& cache, const Step& step)
        : decoder(decoder),
          cache(cache),
          step(step),
          count(cache.sequences()),
          result_bytes(count * size_of(decoder.dtype) *
                       largest(decoder, [](const Weight& weight) { return weight.rows(); })),
          sum_floats(count * std::max(largest(decoder, [](const Weight& weight) { return sums_of(weight); }),
                                      sums_of(*decoder.head.members()[0].weight))),
          spans(cache.tile_spans() + (step.cached + kSpanTokens) / kSpanTokens),
          attention{nullptr, nullptr, decoder.dtype, decoder.heads, 1,       decoder.scaling, 0.0f,
                    false,   0,       nullptr,       nullptr,       nullptr, {0, 0, 0}},
          phases(kPhasesOfLayer * decoder.layers.size() + 2),
          results(2 * static_cast<std::int64_t>(kMostMembers) * result_bytes),
          sums(2 * static_cast<std::int64_t>(kMostMembers) * sum_floats * 4),
          partials(units() * spans * piece_floats() * 4) {}

    static std::int64_t sums_of(const Weight& weight) { return weight.has_sums() ? weight.panels() * kSide : 0; }

    // Sequences' heads of keys, and the heads of queries that share one.
    std::int64_t units() const { return count * decoder.key_heads; }
    std::int64_t rows() const { return decoder.heads / decoder.key_heads; }
    std::int64_t row_floats() const { return partial_floats(cache.window()); }
    std::int64_t piece_floats() const { return rows() * row_floats(); }
    float* partial(std::int64_t piece) const { return partials.floats() + piece * piece_floats(); }
};

// One thread's way through a step. What follows a phase is done by every thread for itself.
class Walker {
public:
    Walker(Shared& shared, int team)
        : shared_(shared),
          decoder_(shared.decoder),
          kernels_(shared.decoder.kernels),
          dtype_(shared.decoder.dtype),
          count_(shared.count),
          team_(team),
          hidden_(bytes_of(decoder_.hidden())),
          normed_(bytes_of(decoder_.hidden())),
          queries_(bytes_of(decoder_.heads * decoder_.head_size)),
          attended_(bytes_of(decoder_.heads * decoder_.head_size)),
          inner_(bytes_of(decoder_.inner())),
          finished_(static_cast<std::int64_t>(kMostMembers) * shared.result_bytes) {}

    void walk() {
        embed();
        for (std::size_t number = 0; number < decoder_.layers.size(); ++number) {
            const DecoderLayer& layer = decoder_.layers[number];
            multiply(layer.states, normalized(layer.input_norm));
            attend(layer, shared_.cache.layers[number]);
            multiply(layer.output, attended_.get());
            add_to_hidden();
            multiply(layer.gated, normalized(layer.middle_norm));
            kernels_.activate(decoder_.activation, dtype_, count_ * decoder_.inner(), y_[0], y_[1], inner_.get());
            multiply(layer.down, inner_.get());
            add_to_hidden();
        }
        predict();
    }

private:
    std::int64_t bytes_of(std::int64_t values) const { return count_ * values * size_of(dtype_); }
    std::int64_t bytes_of_rows(std::int64_t rows, std::int64_t width) const { return rows * width * size_of(dtype_); }

    void embed() {
        for (std::int64_t sequence = 0; sequence < count_; ++sequence) {
            std::byte* row = hidden_.get() + bytes_of_rows(sequence, decoder_.hidden());
            if (decoder_.embedding)
                decoder_.embedding->decode_row(shared_.step.tokens[sequence], dtype_, row);
            else
                std::memcpy(
                    row,
                    static_cast<const std::byte*>(shared_.step.embedded) + bytes_of_rows(sequence, decoder_.hidden()),
                    static_cast<std::size_t>(bytes_of_rows(1, decoder_.hidden())));
        }
    }

    const void* normalized(const void* weight) {
        for (std::int64_t sequence = 0; sequence < count_; ++sequence) {
            const std::int64_t place = bytes_of_rows(sequence, decoder_.hidden());
            kernels_.normalize(dtype_, decoder_.hidden(), hidden_.get() + place, weight, decoder_.epsilon,
                               normed_.get() + place);
        }
        return normed_.get();
    }
    void add_to_hidden() { kernels_.add(dtype_, count_ * decoder_.hidden(), y_[0], hidden_.get()); }

    // y_[i] = x @ weight.T + bias for all members of a group.
    void multiply(const ProjectionGroup& group, const void* x) {
        const std::vector<Projection>& members = group.members();
        const auto turn = static_cast<std::int64_t>(phase_ % 2 * kMostMembers);
        Product products[kMostMembers];
        float* sums[kMostMembers];
        std::unique_ptr<Weight::Input> inputs[kMostMembers];
        for (std::size_t i = 0; i < members.size(); ++i) {
            const std::int64_t slot = turn + static_cast<std::int64_t>(i);
            y_[i] = shared_.results.get() + slot * shared_.result_bytes;
            products[i] = product_of(group, i, x, y_[i]);
            sums[i] = shared_.sums.floats() + slot * shared_.sum_floats;
            if (group.input_of(i) == i) inputs[i] = members[i].weight->prepare(products[i]);
        }
        share(static_cast<std::int64_t>(group.pieces().size()), [&](std::int64_t number) {
            const ProjectionGroup::Piece& piece = group.pieces()[static_cast<std::size_t>(number)];
            members[piece.member].weight->multiply(products[piece.member], piece.panels,
                                                   *inputs[group.input_of(piece.member)], sums[piece.member]);
        });
        for (std::size_t i = 0; i < members.size(); ++i) {
            if (!members[i].weight->has_sums()) continue;
            y_[i] = products[i].y = finished_.get() + static_cast<std::int64_t>(i) * shared_.result_bytes;
            members[i].weight->finish(products[i], sums[i]);
        }
    }

    void predict() {
        const Weight& weight = *decoder_.head.members()[0].weight;
        const Product product = product_of(decoder_.head, 0, normalized(decoder_.norm), shared_.step.logits);
        const auto input = weight.prepare(product);
        share(static_cast<std::int64_t>(decoder_.head.pieces().size()), [&](std::int64_t number) {
            weight.multiply(product, decoder_.head.pieces()[static_cast<std::size_t>(number)].panels, *input,
                            shared_.sums.floats());
        });
        if (weight.has_sums()) share(1, [&](std::int64_t) { weight.finish(product, shared_.sums.floats()); });
    }

    Product product_of(const ProjectionGroup& group, std::size_t member, const void* x, void* y) const {
        const Projection& projection = group.members()[member];
        return {x, projection.bias, y, dtype_, count_, group.columns(), {0, projection.weight->rows()}};
    }

    // attended_ = attention of this token's queries over all keys and values; y_ are query, key and value.
    void attend(const DecoderLayer& layer, const LayerCache& cache) {
        share(shared_.units() * shared_.spans, [&](std::int64_t piece) { attend_span(layer, cache, piece); });
        const std::int64_t size = decoder_.head_size, rows = shared_.rows();
        for (std::int64_t unit = 0; unit < shared_.units(); ++unit)
            for (std::int64_t row = 0; row < rows; ++row)
                kernels_.merge(dtype_, size, shared_.partial(unit * shared_.spans) + row * shared_.row_floats(),
                               shared_.spans, shared_.piece_floats(),
                               attended_.get() + bytes_of_rows(unit * rows + row, size));
    }

    void attend_span(const DecoderLayer& layer, const LayerCache& cache, std::int64_t piece) {
        const std::int64_t unit = piece / shared_.spans, span = piece % shared_.spans;
        const std::int64_t size = decoder_.head_size, rows = shared_.rows();
        const std::int64_t place = bytes_of_rows(unit * rows, size);
        std::memcpy(queries_.get() + place, static_cast<const std::byte*>(y_[0]) + place,
                    static_cast<std::size_t>(bytes_of_rows(rows, size)));
        for (std::int64_t row = 0; row < rows; ++row)
            turn(layer.query_norm, unit, queries_.get() + place + bytes_of_rows(row, size));
        Attention attention = shared_.attention;
        attention.query = queries_.get();
        const std::int64_t tile_spans = shared_.cache.tile_spans();
        if (span < tile_spans)
            return decoder_.attention.attend(cache.tiles, attention, unit, span, shared_.partial(piece));

        if (span == shared_.spans - 1) add_to_cache(layer, cache, unit);
        const std::int64_t first = (span - tile_spans) * kSpanTokens;
        KvCache window = cache.window;
        window.window_keys = static_cast<const std::byte*>(cache.keys) + bytes_of_rows(first, size);
        window.window_values = static_cast<const std::byte*>(cache.values) + bytes_of_rows(first, size);
        window.window_tokens = std::min(kSpanTokens, shared_.step.cached + 1 - first);
        decoder_.attention.attend(window, attention, unit, 0, shared_.partial(piece));
    }

    void add_to_cache(const DecoderLayer& layer, const LayerCache& cache, std::int64_t unit) {
        const std::int64_t size = decoder_.head_size, from = bytes_of_rows(unit, size);
        const std::int64_t to = bytes_of_rows(unit * cache.window.room + shared_.step.cached, size);
        const auto bytes = static_cast<std::size_t>(bytes_of_rows(1, size));
        std::memcpy(static_cast<std::byte*>(cache.keys) + to, static_cast<const std::byte*>(y_[1]) + from, bytes);
        std::memcpy(static_cast<std::byte*>(cache.values) + to, static_cast<const std::byte*>(y_[2]) + from, bytes);
        turn(layer.key_norm, unit, static_cast<std::byte*>(cache.keys) + to);
    }

    // Norm and rotary embedding of one head.
    void turn(const void* norm, std::int64_t unit, void* head) const {
        const std::int64_t place = bytes_of_rows(unit / decoder_.key_heads, decoder_.head_size);
        if (norm != nullptr) kernels_.normalize(dtype_, decoder_.head_size, head, norm, decoder_.epsilon, head);
        kernels_.rotate(dtype_, decoder_.head_size, static_cast<const std::byte*>(shared_.step.cosines) + place,
                        static_cast<const std::byte*>(shared_.step.sines) + place, head);
    }

    template <class Body>
    void share(std::int64_t count, const Body& body) {
        shared_.phases.share(phase_++, team_, count, body);
    }

    Shared& shared_;
    const Decoder& decoder_;
    const DecoderKernels& kernels_;
    Dtype dtype_;
    std::int64_t count_;
    int team_;
    std::size_t phase_ = 0;
    void* y_[kMostMembers] = {};
    Bytes hidden_, normed_, queries_, attended_, inner_, finished_;
};

}  // namespace

ProjectionGroup::ProjectionGroup(std::vector<Projection> members) : members_(std::move(members)) {
    for (std::size_t i = 0; i < members_.size(); ++i) {
        const Weight& weight = *members_[i].weight;
        const std::int64_t panels = kPieceWeights / std::max<std::int64_t>(weight.columns() * kSide, 1);
        const std::int64_t together = weight.panels_together();
        const std::int64_t step = std::max<std::int64_t>(1, panels / together) * together;
        for (std::int64_t first = 0; first < weight.panels(); first += step)
            pieces_.push_back({i, {first, std::min(first + step, weight.panels())}});
        std::size_t input = 0;
        while (input < i && !weight.reads_input_of(*members_[input].weight)) ++input;
        inputs_.push_back(input);
    }
}

void run_step(const Decoder& decoder, const StepCache& cache, const Step& step, int threads) {
    Shared shared(decoder, cache, step);
    together(threads, [&](int team) { Walker(shared, team).walk(); });
}

}  // namespace tilepress
