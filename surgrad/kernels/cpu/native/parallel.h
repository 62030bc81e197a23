// Threads: PyTorch's own OpenMP pool where its entry is known, else new ones. A second pool would compete with the first, whose
// threads go on spinning for a while after each of PyTorch's operations.
#pragma once
#include <atomic>
#include <thread>
#include <vector>

#include "interrupt.h"

using ParallelEntry = void (*)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel

namespace {

ParallelEntry parallel_entry = nullptr;

// f(0) ... f(n - 1), at the same time where threads are free
template <class F>
void share(int64_t n, F f) {
    std::atomic<int64_t> next{0}, unfinished{n};
    Call* const call = part.call;
    auto work = [&] {
        const Part before = part;
        part = {call, before.calling};
        for (int64_t k; (k = next++) < n; unfinished--) f(k);
        if (call && part.calling) call->wait(unfinished);
        part = before;
    };
    if (n <= 1) return work();
    if (parallel_entry) return parallel_entry([](void* all) { (*static_cast<decltype(work)*>(all))(); }, &work, n, 0);
    std::vector<std::thread> others;
    for (int64_t k = 1; k < n; k++) others.emplace_back(work);
    work();
    for (auto& thread : others) thread.join();
}

}  // namespace

extern "C" void surgrad_use_threads(ParallelEntry entry) { parallel_entry = entry; }
