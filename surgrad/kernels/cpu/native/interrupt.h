// A call from Python that signals reach. The interpreter is released while compiled code runs; now and then the calling thread lets
// it run the handlers of pending signals, and if one raises (KeyboardInterrupt), the loops of all threads end. What they were writing
// is then half finished: Python raises the exception when the call returns.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t WORK = 1 << 18;  // floats between two looks at the clock

struct {
    void* (*release)();      // PyEval_SaveThread
    void (*acquire)(void*);  // PyEval_RestoreThread
    int (*check_signals)();  // PyErr_CheckSignals: -1 if a handler raised
    std::chrono::milliseconds interval;
} python = {};  // unknown where the library is called by another program

struct Call;
thread_local struct Part { Call* call = nullptr; bool calling = false; int64_t left = WORK; } part;  // what this thread works for

struct Call {
    void* interpreter = python.release ? python.release() : nullptr;
    std::atomic<bool> stop{false};
    Clock::time_point next = Clock::now() + python.interval;

    Call() { part = {this, true}; }
    ~Call() {
        part = {};
        if (interpreter) python.acquire(interpreter);
    }
    bool stopped() {
        if (!stop && part.calling && interpreter && Clock::now() >= next) {
            python.acquire(interpreter);
            stop = python.check_signals() != 0;
            interpreter = python.release();
            next = Clock::now() + python.interval;
        }
        return stop;
    }
    // Until the parts of other threads are done
    void wait(const std::atomic<int64_t>& parts) {
        for (const auto start = Clock::now(); parts.load(std::memory_order_acquire) > 0;) {
            if (Clock::now() - start < std::chrono::milliseconds(1)) std::this_thread::yield();
            else std::this_thread::sleep_for(std::chrono::microseconds(100)), stopped();
        }
    }
};

// Asked in every loop that may last: true if the call is to end
struct Interrupted {
    Part& mine = part;
    bool operator()(int64_t floats) const { return (mine.left -= floats) < 0 && look(); }
    bool look() const {
        const bool over = mine.call && mine.call->stopped();
        mine.left = over ? -1 : WORK;
        return over;
    }
};

}  // namespace

extern "C" inline __attribute__((used)) void surgrad_use_python(void* (*release)(), void (*acquire)(void*), int (*check_signals)(),
                                                                  int64_t milliseconds) {
    python = {release, acquire, check_signals, std::chrono::milliseconds(milliseconds)};
}
