// A kernel as the emulator calls it: with the addresses of its arguments, as a GPU's driver takes them.
#pragma once

#include <type_traits>
#include <utility>

namespace emulator {

template <auto kKernel>
struct Entry;

template <class... Arguments, void (*kKernel)(Arguments...)>
struct Entry<kKernel> {
    template <std::size_t... kIndex>
    static void call(void** arguments, std::index_sequence<kIndex...>) {
        kKernel(*static_cast<std::remove_const_t<Arguments>*>(arguments[kIndex])...);
    }
    static void run(void** arguments) { call(arguments, std::index_sequence_for<Arguments...>{}); }
};

}  // namespace emulator

extern "C" const char* emulator_launch(void (*entry)(void**), const unsigned* grid, const unsigned* block,
                                       std::size_t shared_bytes, void** arguments, unsigned seed, int order,
                                       int orders_blocks);
