// EventProp on a time grid, fused over time, in float and double; the equations are at the top of surgrad/eventprop/grid.py.
//
// Threads take samples: one sample walks through all steps while its state stays in the cache. Currents, products with the
// recurrent weights and all gradients are sums over spikes, forward and backward; of the forward pass only the spikes are
// kept, each with the current i[t-1] that drove it.

#include "event_membrane.h"
#include "identity.h"

namespace {

template <class R>
struct Fired {
    int32_t step, unit;
    R drive;  // i[t-1]
};

template <class R>
struct Scan {
    R a, b, tau_mem, tau_syn;
    int64_t T, B, N_in, N;
    const R *x, *W, *recurrent;  // input spikes (T, B, N_in), weights (N_in, N), (N, N) or null

    int64_t at(int64_t t, int64_t sample) const { return (t * B + sample) * N; }
    // f(unit, value) for the input spikes of a step
    template <class F>
    void inputs(int64_t t, int64_t sample, F f) const {
        constexpr int64_t BLOCK = 32;  // mostly empty, and looked at as one
        const R* row = x + (t * B + sample) * N_in;
        for (int64_t k0 = 0; k0 < N_in; k0 += BLOCK) {
            int64_t k1 = std::min(k0 + BLOCK, N_in), some = 0;
            for (int64_t k = k0; k < k1; k++) some += row[k] != 0;
            for (int64_t k = k0; k < k1 && some; k++)
                if (row[k] != 0) f(k, row[k]), some--;
        }
    }
    void arrive(int64_t t, int64_t sample, R* i) const {
        inputs(t, sample, [&](int64_t k, R value) {
            const R* w = W + k * N;
            for (int64_t n = 0; n < N; n++) i[n] += value * w[n];
        });
    }
};

template <class R>
using Spikes = std::vector<std::vector<Fired<R>>>;  // of every sample, in the order of time

template <class R>
Spikes<R>* spiking(const Scan<R>& y, R* out, int64_t threads) {
    auto* spikes = new Spikes<R>(y.B);
    share(y.B, threads, [&](int64_t, int64_t b0, int64_t b1) {
        std::vector<R> u(y.N), before(y.N), now(y.N), next(y.N);
        const R a = y.a, b = y.b;
        const int64_t N = y.N;
        const Interrupted interrupted;
        for (int64_t sample = b0; sample < b1; sample++) {
            for (auto* state : {&u, &before, &now}) std::fill(state->begin(), state->end(), R(0));
            auto& list = (*spikes)[sample];
            for (int64_t t = 0; t < y.T && !interrupted(y.N + y.N_in); t++) {
                R *__restrict__ s = out + y.at(t, sample), *__restrict__ v = u.data(), *__restrict__ after = next.data();
                const R* __restrict__ i = now.data();
                int64_t some = 0;
                for (int64_t n = 0; n < N; n++) {
                    R fires = v[n] > 1 ? R(1) : R(0);
                    some += v[n] > 1, s[n] = fires;
                    v[n] = b * v[n] * (1 - fires) + (1 - b) * i[n], after[n] = a * i[n];
                }
                for (int64_t n = 0; n < y.N && some; n++) {
                    if (s[n] == 0) continue;
                    list.push_back({int32_t(t), int32_t(n), before[n]}), some--;
                    if (y.recurrent) axpy(y.N, y.recurrent + n * y.N, after);
                }
                y.arrive(t, sample, after);
                before.swap(now), now.swap(next);
            }
        }
    });
    return spikes;
}

template <class R>
void leaking(const Scan<R>& y, R* out, int64_t threads) {
    share(y.B, threads, [&](int64_t, int64_t b0, int64_t b1) {
        std::vector<R> u(y.N), i(y.N);
        const Interrupted interrupted;
        for (int64_t sample = b0; sample < b1; sample++) {
            std::fill(u.begin(), u.end(), R(0)), std::fill(i.begin(), i.end(), R(0));
            for (int64_t t = 0; t < y.T && !interrupted(y.N + y.N_in); t++) {
                std::copy(u.begin(), u.end(), out + y.at(t, sample));
                for (int64_t n = 0; n < y.N; n++) u[n] = y.b * u[n] + (1 - y.b) * i[n], i[n] *= y.a;
                y.arrive(t, sample, i.data());
            }
        }
    });
}

// The adjoint of one sample, one step after the other from the last
template <class R>
struct Walk {
    const Scan<R>& y;
    R *dW, *dR, *dx;  // of this thread, of this thread, of all (or null)
    std::vector<R> pV, pI;
    Interrupted interrupted;

    Walk(const Scan<R>& y, R* dW, R* dR, R* dx) : y(y), dW(dW), dR(dR), dx(dx), pV(y.N), pI(y.N) {}
    void reset() { std::fill(pV.begin(), pV.end(), R(0)), std::fill(pI.begin(), pI.end(), R(0)); }
    R by_time(const R* w) const { return ::by_time(y.N, w, pV.data(), pI.data(), y.tau_mem, y.tau_syn); }
    void inputs(int64_t t, int64_t sample) {
        y.inputs(t, sample, [&](int64_t k, R value) {
            R* row = dW + k * y.N;
            for (int64_t n = 0; n < y.N; n++) row[n] += value * pI[n];
            if (dx) dx[(t * y.B + sample) * y.N_in + k] = value * by_time(y.W + k * y.N);
        });
    }
    void back() {
        R *__restrict__ v = pV.data(), *__restrict__ i = pI.data();
        for (int64_t n = 0; n < y.N; n++) i[n] = y.a * i[n] + (1 - y.b) * v[n], v[n] *= y.b;
    }
};

template <class R>
void spiking_backward(const Scan<R>& y, const Spikes<R>& spikes, const R* g, R* dW, R* dR, R* dx, int64_t threads) {
    Buffers<R> weights(dW, y.N_in * y.N, threads, y.B), recurrent(dR, y.N * y.N, threads, y.B);
    share(y.B, threads, [&](int64_t thread, int64_t b0, int64_t b1) {
        Walk<R> walk(y, weights.of(thread), recurrent.of(thread), dx);
        std::vector<R> jumps;
        for (int64_t sample = b0; sample < b1; sample++) {
            walk.reset();
            const auto& list = spikes[sample];
            for (int64_t t = y.T - 1, last = list.size(); t >= 0 && !walk.interrupted(y.N + y.N_in); t--) {
                walk.inputs(t, sample);
                int64_t first = last;
                for (jumps.clear(); first > 0 && list[first - 1].step == t; first--) {
                    const Fired<R>& s = list[first - 1];
                    R by_time = g[y.at(t, sample) + s.unit];
                    if (y.recurrent) {
                        by_time += walk.by_time(y.recurrent + s.unit * y.N);
                        axpy(y.N, walk.pI.data(), walk.dR + s.unit * y.N);
                    }
                    jumps.push_back((walk.pV[s.unit] * s.drive - y.tau_mem * by_time) / (s.drive - 1));
                }
                walk.back();
                for (int64_t k = first; k < last; k++) walk.pV[list[k].unit] = jumps[last - 1 - k];
                last = first;
            }
        }
    });
    weights.sum(), recurrent.sum();
}

template <class R>
void leaking_backward(const Scan<R>& y, const R* g, R* dW, R* dx, int64_t threads) {
    Buffers<R> weights(dW, y.N_in * y.N, threads, y.B);
    share(y.B, threads, [&](int64_t thread, int64_t b0, int64_t b1) {
        Walk<R> walk(y, weights.of(thread), nullptr, dx);
        for (int64_t sample = b0; sample < b1; sample++) {
            walk.reset();
            for (int64_t t = y.T - 1; t >= 0 && !walk.interrupted(y.N + y.N_in); t--) {
                walk.inputs(t, sample);
                walk.back();
                axpy(y.N, g + y.at(t, sample), walk.pV.data());
            }
        }
    });
    weights.sum();
}

}  // namespace

#define SCAN(R) \
    double a, double b, double tau_mem, double tau_syn, int64_t T, int64_t B, int64_t N_in, int64_t N, const R *x, const R *W, \
        const R *recurrent
#define GIVEN(R) {R(a), R(b), R(tau_mem), R(tau_syn), T, B, N_in, N, x, W, recurrent}
#define DEFINE(R, suffix) \
    void* grid_spiking_##suffix(SCAN(R), R* out, int64_t threads) { \
        Call call; \
        return spiking<R>(GIVEN(R), out, threads); \
    } \
    void grid_free_##suffix(void* spikes) { delete (Spikes<R>*)spikes; } \
    int64_t grid_bytes_##suffix(const void* spikes) { \
        int64_t sum = 0; \
        for (const auto& list : *(const Spikes<R>*)spikes) sum += list.size() * sizeof(Fired<R>); \
        return sum; \
    } \
    void grid_spiking_backward_##suffix(SCAN(R), const void* spikes, const R* g, R* dW, R* dR, R* dx, int64_t threads) { \
        Call call; \
        spiking_backward<R>(GIVEN(R), *(const Spikes<R>*)spikes, g, dW, dR, dx, threads); \
    } \
    void grid_leaking_##suffix(SCAN(R), R* out, int64_t threads) { \
        Call call; \
        leaking<R>(GIVEN(R), out, threads); \
    } \
    void grid_leaking_backward_##suffix(SCAN(R), const R* g, R* dW, R* dx, int64_t threads) { \
        Call call; \
        leaking_backward<R>(GIVEN(R), g, dW, dx, threads); \
    }

extern "C" {
DEFINE(float, f32)
DEFINE(double, f64)
}
