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

StartTeam find_team() {
    std::string path;
    dl_iterate_phdr(find_library, &path);
    void* library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr ? nullptr : reinterpret_cast<StartTeam>(dlsym(library, "GOMP_parallel"));
}
#else
StartTeam find_team() {
    return nullptr;
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
    static const StartTeam start_team = find_team();
    if (start_team != nullptr) {
        start_team([](void* data) { static_cast<Work*>(data)->run(); }, &work, team, 0);
        return;
    }
    std::vector<std::thread> others;
    for (unsigned i = 1; i < team; ++i) others.emplace_back([&work] { work.run(); });
    work.run();
    for (auto& thread : others) thread.join();
}

}  // namespace tilepress
