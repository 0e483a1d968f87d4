// Work shared among threads: those of PyTorch's own OpenMP runtime where there is one, since a second pool would fight it
// for the cores; threads of our own otherwise. Chunks are claimed from a counter. Every result depends on its row alone,
// never on who computed it, so results are the same for any number of threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel of the GNU OpenMP ABI

inline Parallel& openmp() {
    static Parallel start = nullptr;
    return start;
}

class Chunks {
    std::atomic<int64_t> next{0};
    const int64_t n, size;

public:
    Chunks(int64_t n, int64_t size) : n(n), size(size) {}

    bool claim(int64_t& begin, int64_t& end) {
        begin = next.fetch_add(size, std::memory_order_relaxed);
        end = std::min(begin + size, n);
        return begin < n;
    }
};

// Calls work(chunks) once on each thread; work claims chunks of [0, n) until none is left.
template <class Work>
void parallel(int threads, int64_t n, int64_t size, const Work& work) {
    Chunks chunks(n, size);
    if (threads <= 1 || n <= size) return work(chunks);
    struct Task {
        const Work& work;
        Chunks& chunks;
        static void run(void* task) {
            auto& self = *static_cast<Task*>(task);
            self.work(self.chunks);
        }
    } task{work, chunks};
    if (openmp()) return openmp()(Task::run, &task, static_cast<unsigned>(threads), 0);
    std::vector<std::thread> others;
    for (int i = 1; i < threads; i++) others.emplace_back(Task::run, &task);
    work(chunks);
    for (auto& other : others) other.join();
}
