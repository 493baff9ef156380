#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

// ThreadSanitizer does not see how the threads of a runtime that it has not instrumented wait for each other.
#if defined(__linux__) && !defined(__SANITIZE_THREAD__)
#define TILEPRESS_SHARES_A_TEAM
#endif

#if defined(TILEPRESS_SHARES_A_TEAM)
#include <dlfcn.h>
#include <link.h>

#include <string>
#endif

namespace tilepress {
namespace {

// The entry that compilers call for `#pragma omp parallel`; LLVM's and Intel's runtimes have it as well as GNU's.
using StartTeam = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
using CountTeam = int (*)();

// What PyTorch's OpenMP runtime offers; null where the process has none.
struct Runtime {
    StartTeam start_team = nullptr;
    CountTeam count_team = nullptr;
};

#if defined(TILEPRESS_SHARES_A_TEAM)
int find_library(dl_phdr_info* library, std::size_t, void* found) {
    const std::string path = library->dlpi_name;
    const std::string name = path.substr(path.rfind('/') + 1);
    const auto begins = [&](const char* with) { return name.rfind(with, 0) == 0; };
    // Of several runtimes, the one beside PyTorch's libraries.
    const bool is_wanted =
        (begins("libgomp") || begins("libiomp5") || begins("libomp")) && path.find("torch") != std::string::npos;
    if (is_wanted) *static_cast<std::string*>(found) = path;
    return is_wanted;
}

Runtime find_runtime() {
    std::string path;
    dl_iterate_phdr(find_library, &path);
    void* library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return {};
    const Runtime runtime{reinterpret_cast<StartTeam>(dlsym(library, "GOMP_parallel")),
                          reinterpret_cast<CountTeam>(dlsym(library, "omp_get_num_threads"))};
    return runtime.start_team == nullptr || runtime.count_team == nullptr ? Runtime{} : runtime;
}
#else
Runtime find_runtime() {
    return {};
}
#endif

struct Work {
    std::atomic<std::int64_t> next{0};
    std::int64_t count;
    std::int64_t step;
    const std::function<void(std::int64_t, std::int64_t)>& body;

    Work(std::int64_t count, std::int64_t step, const std::function<void(std::int64_t, std::int64_t)>& body)
        : count(count), step(step), body(body) {}

    void run() {
        for (std::int64_t first; (first = next.fetch_add(step)) < count;) body(first, std::min(first + step, count));
    }
};

}  // namespace

void parallel(std::int64_t count, std::int64_t step, int threads,
              const std::function<void(std::int64_t, std::int64_t)>& body) {
    Work work(count, step, body);
    const std::int64_t pieces = (count + step - 1) / step;
    const auto team = static_cast<unsigned>(std::min<std::int64_t>(threads, pieces));
    if (team <= 1) return work.run();
    together(static_cast<int>(team), [&work](int) { work.run(); });
}

void together(int threads, const std::function<void(int)>& body) {
    if (threads <= 1) return body(1);
    static const Runtime runtime = find_runtime();
    if (runtime.start_team != nullptr) {
        // The runtime may start fewer threads than it is asked for.
        const auto run = [](void* data) {
            (*static_cast<const std::function<void(int)>*>(data))(runtime.count_team());
        };
        runtime.start_team(run, const_cast<std::function<void(int)>*>(&body), static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(std::ref(body), threads);
    body(threads);
    for (auto& thread : others) thread.join();
}

}  // namespace tilepress
