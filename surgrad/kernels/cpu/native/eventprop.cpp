// Event-based spiking layers with exact gradients (Wunderlich & Pehle 2021), in float and double.
//
//   tau_mem dV/dt = -V + I,   tau_syn dI/dt = -I,   I += W[u] at an input spike of u,   V -> 0 when V reaches 1.
//
// From one event to the next the state obeys V(d) = m V + k I, I(d) = s I with common factors m, s, k of the interval d,
// so a layer is advanced as one vector; only neurons that can have crossed 1 are looked at one by one.
//
// Backward, pV and pI are the derivatives of the loss by V and I right after an event (lambda_V = -tau_mem pV' ...):
//   interval         pI <- s pI + k pV,  pV <- m pV
//   input spike u    dW[u] += pI,  dL/dt = sum_n W[u,n] (pI_n / tau_syn - pV_n / tau_mem)
//   own spike        g = dL/dt of this spike (loss, layer above, recurrence),  pV <- (pV I - tau_mem g) / (I - 1)

#include "event_membrane.h"
#include "identity.h"

namespace {

template <class R>
struct Spike {
    R time, current;  // I right before it
    int32_t unit, interval;
};

template <class R>
struct Layer {
    Membrane<R> membrane;
    Input<R> in;
    int64_t N;
    const R *W, *recurrent;
    R duration;
    int64_t max_spikes;  // per sample
};

template <class R>
struct Forward {
    const Layer<R>& y;
    std::vector<R> V, I, V1, I1;
    std::vector<Spike<R>> spikes;
    bool overflow = false;
    Interrupted interrupted;

    Forward(const Layer<R>& y) : y(y), V(y.N), I(y.N), V1(y.N), I1(y.N) {}

    void sample(int64_t b) {
        std::fill(V.begin(), V.end(), R(0)), std::fill(I.begin(), I.end(), R(0));
        size_t first = spikes.size();
        R t = 0;
        int64_t e0 = y.in.offsets[b], e1 = y.in.offsets[b + 1];
        for (int64_t e = e0; e <= e1; e++) {
            if (interrupted(8 * y.N)) return;
            R next = e < e1 ? y.in.times[e] : y.duration;
            if (next > t) y.recurrent ? coupled(t, next, e - e0) : independent(t, next, e - e0);
            if (int64_t(spikes.size() - first) > y.max_spikes) {
                overflow = true;
                return;
            }
            t = next;
            if (e < e1) axpy(y.N, y.W + y.in.units[e] * y.N, I.data());
        }
    }
    // Whether a neuron may have reached 1 on the way from (V, I) to (V1, I1): it is above, or past its maximum
    static bool may(R i, R v1, R i1) { return bool(i > 1) & (bool(v1 >= 1) | bool(i1 < v1)); }
    // States after an interval, and whether any neuron may have reached 1
    bool look(Factors<R> f) {
        const R *__restrict__ v = V.data(), *__restrict__ i = I.data();
        R *__restrict__ v1 = V1.data(), *__restrict__ i1 = I1.data();
        int64_t some = 0;
        for (int64_t n = 0; n < y.N; n++) {
            R a = f.m * v[n] + f.k * i[n], c = f.s * i[n];
            v1[n] = a, i1[n] = c, some += may(i[n], a, c);
        }
        return some;
    }
    void independent(R t, R next, int64_t interval) {
        Factors<R> f = y.membrane.after(next - t);
        if (look(f)) {
            size_t first = spikes.size();
            for (int64_t n = 0; n < y.N; n++)
                if (may(I[n], V1[n], I1[n])) fire(n, t, next, f, interval);
            std::sort(spikes.begin() + first, spikes.end(),
                      [](const Spike<R>& p, const Spike<R>& q) { return p.time < q.time || (p.time == q.time && p.unit < q.unit); });
        }
        V.swap(V1), I.swap(I1);
    }
    void fire(int64_t n, R t, R next, Factors<R> f, int64_t interval) {
        R v = V[n], i = I[n], left = next - t;
        bool fired = false;
        for (int64_t count = 0; count <= y.max_spikes; count++) {
            R d = y.membrane.crossing(v, i, left, f);
            if (d < 0) break;
            fired = true;
            i *= y.membrane.after(d).s, v = 0, left -= d, f = y.membrane.after(left);
            spikes.push_back({next - left, i, int32_t(n), int32_t(interval)});
        }
        if (fired) V1[n] = f.k * i, I1[n] = f.s * i;
    }
    void coupled(R t, R next, int64_t interval) {
        R left = next - t;
        size_t first = spikes.size();
        for (Factors<R> f = y.membrane.after(left); look(f); f = y.membrane.after(left)) {
            if (interrupted(8 * y.N)) return;
            R soonest = left;
            int64_t who = -1;
            for (int64_t n = 0; n < y.N; n++) {
                if (!may(I[n], V1[n], I1[n])) continue;
                R d = y.membrane.crossing(V[n], I[n], soonest, f);
                if (d >= 0 && (who < 0 || d < soonest)) soonest = d, who = n, f = y.membrane.after(d);
            }
            if (who < 0) break;
            for (int64_t n = 0; n < y.N; n++) V[n] = f.m * V[n] + f.k * I[n], I[n] *= f.s;
            left -= soonest;
            spikes.push_back({next - left, I[who], int32_t(who), int32_t(interval)});
            V[who] = 0;
            axpy(y.N, y.recurrent + who * y.N, I.data());
            if (int64_t(spikes.size() - first) > y.max_spikes) return;
        }
        V.swap(V1), I.swap(I1);
    }
};

template <class R>
struct Backward : Adjoint<R> {
    const Layer<R>& y;
    const Spike<R>* spikes;
    const R* g_spikes;
    std::vector<R> at;  // time to which a neuron has been followed inside an interval
    std::vector<int32_t> fired;

    Backward(const Layer<R>& y, const Spike<R>* spikes, const R* g, Gradients<R> out)
        : Adjoint<R>(y.membrane, y.in, y.N, y.W, out), y(y), spikes(spikes), g_spikes(g), at(y.N, R(-1)) {}

    void sample(int64_t b, int64_t s0, int64_t s) {  // its spikes are [s0, s)
        this->reset();
        int64_t e0 = y.in.offsets[b], e1 = y.in.offsets[b + 1];
        for (int64_t e = e1; e >= e0; e--) {
            if (this->interrupted(4 * y.N)) return;
            R next = e < e1 ? y.in.times[e] : y.duration, t = e > e0 ? y.in.times[e - 1] : R(0);
            if (e < e1) this->event(e);
            int64_t first = s;
            while (first > s0 && spikes[first - 1].interval == e - e0) first--;
            y.recurrent ? coupled(t, next, first, s) : independent(t, next, first, s);
            s = first;
        }
    }
    void spike(const Spike<R>& s, R g) {
        this->pV[s.unit] = (this->pV[s.unit] * s.current - y.membrane.tau_mem * g) / (s.current - 1);
    }
    void independent(R t, R next, int64_t first, int64_t last) {
        fired.clear();
        for (int64_t s = last - 1; s >= first; s--) {
            int32_t n = spikes[s].unit;
            if (at[n] < 0) at[n] = next, fired.push_back(n);
            this->back(n, at[n] - spikes[s].time);
            this->spike(spikes[s], g_spikes[s]);
            at[n] = spikes[s].time;
        }
        std::vector<R>& kept = scratch;
        kept.clear();
        for (int32_t n : fired) {
            this->back(n, at[n] - t);
            kept.push_back(this->pV[n]), kept.push_back(this->pI[n]), at[n] = -1;
        }
        if (next > t) this->back(next - t);
        for (size_t k = 0; k < fired.size(); k++) this->pV[fired[k]] = kept[2 * k], this->pI[fired[k]] = kept[2 * k + 1];
    }
    void coupled(R t, R next, int64_t first, int64_t last) {
        R from = next;
        for (int64_t s = last - 1; s >= first; s--) {
            if (this->interrupted(4 * y.N)) return;
            if (from > spikes[s].time) this->back(from - spikes[s].time);
            int64_t row = spikes[s].unit * y.N;
            R g = g_spikes[s] + this->by_time(y.recurrent + row);
            axpy(y.N, this->pI.data(), this->out.recurrent + row);
            this->spike(spikes[s], g);
            from = spikes[s].time;
        }
        if (from > t) this->back(from - t);
    }
    std::vector<R> scratch;
};

template <class R>
struct Result {
    std::vector<Spike<R>> spikes;
    std::vector<int64_t> offsets;
    int64_t overflow = -1;  // a sample with too many spikes
};

template <class R>
Result<R>* forward(const Layer<R>& y, int64_t threads) {
    auto* result = new Result<R>;
    std::vector<Forward<R>> parts;
    int64_t nb = std::max<int64_t>(1, std::min(threads, y.in.B));
    for (int64_t t = 0; t < nb; t++) parts.emplace_back(y);
    result->offsets.assign(y.in.B + 1, 0);
    std::vector<int64_t> failed(nb, -1);
    share(y.in.B, threads, [&](int64_t thread, int64_t b0, int64_t b1) {
        Forward<R>& part = parts[thread];
        for (int64_t b = b0; b < b1 && failed[thread] < 0; b++) {
            size_t before = part.spikes.size();
            part.sample(b);
            result->offsets[b + 1] = part.spikes.size() - before;
            if (part.overflow) failed[thread] = b;
        }
    });
    for (int64_t b = 0; b < y.in.B; b++) result->offsets[b + 1] += result->offsets[b];
    for (int64_t t = nb - 1; t >= 0; t--)
        if (failed[t] >= 0) result->overflow = failed[t];
    result->spikes = std::move(parts[0].spikes);
    for (int64_t t = 1; t < nb; t++) result->spikes.insert(result->spikes.end(), parts[t].spikes.begin(), parts[t].spikes.end());
    return result;
}

template <class R>
void backward(const Layer<R>& y, const Result<R>& result, const R* g, R* dW, R* dR, R* dt, int64_t threads) {
    Buffers<R> weights(dW, rows(y.in) * y.N, threads, y.in.B), recurrent(dR, size_t(y.N) * y.N, threads, y.in.B);
    share(y.in.B, threads, [&](int64_t thread, int64_t b0, int64_t b1) {
        Backward<R> part(y, result.spikes.data(), g, {weights.of(thread), recurrent.of(thread), dt});
        for (int64_t b = b0; b < b1; b++) part.sample(b, result.offsets[b], result.offsets[b + 1]);
    });
    weights.sum(), recurrent.sum();
}

// ---------------------------------------------------------------- leaky readout, no threshold
template <class R>
struct Readout {
    Membrane<R> membrane;
    Input<R> in;
    int64_t N;
    const R* W;
    R duration;
};

// Largest V of each neuron over [0, duration], when, and in which interval. Where an event cuts off the rise, the maximum
// moves with that event: `slope` is then dV/dt before it, else 0.
template <class R>
void peaks(const Readout<R>& y, R* value, R* time, R* slope, int32_t* where, int64_t threads) {
    share(y.in.B, threads, [&](int64_t, int64_t b0, int64_t b1) {
        std::vector<R> V(y.N), I(y.N);
        const Interrupted interrupted;
        for (int64_t b = b0; b < b1; b++) {
            std::fill(V.begin(), V.end(), R(0)), std::fill(I.begin(), I.end(), R(0));
            R *best = value + b * y.N, *when = time + b * y.N, *rise = slope + b * y.N, t = 0;
            int32_t* k = where + b * y.N;
            for (int64_t n = 0; n < y.N; n++) best[n] = when[n] = rise[n] = 0, k[n] = -1;
            int64_t e0 = y.in.offsets[b], e1 = y.in.offsets[b + 1];
            for (int64_t e = e0; e <= e1 && !interrupted(2 * y.N); e++) {
                R next = e < e1 ? y.in.times[e] : y.duration;
                Factors<R> f = y.membrane.after(next - t);
                for (int64_t n = 0; n < y.N && next > t; n++) {
                    R v = f.m * V[n] + f.k * I[n], i = f.s * I[n], d = next - t, high = v;
                    if (I[n] > V[n] && i < v) {
                        R top = y.membrane.peak(V[n], I[n]);
                        if (top >= 0 && top < d) {
                            Factors<R> g = y.membrane.after(top);
                            high = g.m * V[n] + g.k * I[n], d = top;
                        }
                    }
                    if (high > best[n]) {
                        best[n] = high, when[n] = t + d, k[n] = int32_t(e - e0);
                        rise[n] = d == next - t && e < e1 ? (i - v) / y.membrane.tau_mem : R(0);
                    }
                    V[n] = v, I[n] = i;
                }
                t = next;
                if (e < e1) axpy(y.N, y.W + y.in.units[e] * y.N, I.data());
            }
        }
    });
}

template <class R>
void peaks_backward(const Readout<R>& y, const R* time, const R* slope, const int32_t* where, const R* g, R* dW, R* dt, int64_t threads) {
    Buffers<R> weights(dW, rows(y.in) * y.N, threads, y.in.B);
    share(y.in.B, threads, [&](int64_t thread, int64_t b0, int64_t b1) {
        Adjoint<R> a(y.membrane, y.in, y.N, y.W, {weights.of(thread), nullptr, dt});
        for (int64_t b = b0; b < b1; b++) {
            a.reset();
            int64_t e0 = y.in.offsets[b], e1 = y.in.offsets[b + 1];
            for (int64_t e = e1; e >= e0 && !a.interrupted(4 * y.N); e--) {
                R t = e > e0 ? y.in.times[e - 1] : R(0), next = e < e1 ? y.in.times[e] : y.duration;
                if (e < e1) a.event(e);
                if (next > t) a.back(next - t);
                for (int64_t n = 0; n < y.N; n++) {
                    if (where[b * y.N + n] != e - e0) continue;
                    R weight = g[b * y.N + n];
                    Factors<R> f = y.membrane.after(time[b * y.N + n] - t);
                    a.pV[n] += f.m * weight, a.pI[n] += f.k * weight;
                    if (e < e1 && dt) dt[e] += slope[b * y.N + n] * weight;
                }
            }
        }
    });
    weights.sum();
}

// V at the S times `at`, nondecreasing, the same for all samples: (B, S, N)
template <class R>
void voltages(const Readout<R>& y, int64_t S, const R* at, R* out, int64_t threads) {
    share(y.in.B, threads, [&](int64_t, int64_t b0, int64_t b1) {
        std::vector<R> V(y.N), I(y.N);
        const Interrupted interrupted;
        for (int64_t b = b0; b < b1; b++) {
            std::fill(V.begin(), V.end(), R(0)), std::fill(I.begin(), I.end(), R(0));
            R t = 0;
            auto advance = [&](R next) {
                Factors<R> f = y.membrane.after(next - t);
                for (int64_t n = 0; n < y.N; n++) V[n] = f.m * V[n] + f.k * I[n], I[n] *= f.s;
                t = next;
            };
            int64_t e = y.in.offsets[b], e1 = y.in.offsets[b + 1];
            for (int64_t s = 0; s < S; s++) {
                for (; e < e1 && y.in.times[e] < at[s] && !interrupted(2 * y.N); e++) {
                    advance(y.in.times[e]);
                    axpy(y.N, y.W + y.in.units[e] * y.N, I.data());
                }
                advance(at[s]);
                std::copy(V.begin(), V.end(), out + (b * S + s) * y.N);
            }
        }
    });
}

template <class R>
void voltages_backward(const Readout<R>& y, int64_t S, const R* at, const R* g, R* dW, R* dt, int64_t threads) {
    Buffers<R> weights(dW, rows(y.in) * y.N, threads, y.in.B);
    share(y.in.B, threads, [&](int64_t thread, int64_t b0, int64_t b1) {
        Adjoint<R> a(y.membrane, y.in, y.N, y.W, {weights.of(thread), nullptr, dt});
        for (int64_t b = b0; b < b1; b++) {
            a.reset();
            int64_t e0 = y.in.offsets[b], e = y.in.offsets[b + 1];
            R t = S ? at[S - 1] : R(0);
            while (e > e0 && (!S || y.in.times[e - 1] >= at[S - 1])) e--;
            for (int64_t s = S - 1; s >= 0; s--) {
                a.back(t - at[s]), t = at[s];
                axpy(y.N, g + (b * S + s) * y.N, a.pV.data());
                for (; e > e0 && (s == 0 || y.in.times[e - 1] >= at[s - 1]) && !a.interrupted(4 * y.N); e--) {
                    a.back(t - y.in.times[e - 1]), t = y.in.times[e - 1];
                    a.event(e - 1);
                }
            }
        }
    });
    weights.sum();
}

template <class R>
int64_t take(const Result<R>* result, R* times, int32_t* units, int64_t* offsets) {
    for (size_t s = 0; s < result->spikes.size(); s++) times[s] = result->spikes[s].time, units[s] = result->spikes[s].unit;
    std::copy(result->offsets.begin(), result->offsets.end(), offsets);
    return int64_t(result->spikes.size());
}

}  // namespace

#define LAYER(R) \
    double tau_mem, double tau_syn, double duration, int64_t B, int64_t N, const R *times, const int32_t *units, \
        const int64_t *offsets, const R *W
#define DEFINE(R, suffix) \
    void* eventprop_forward_##suffix(LAYER(R), const R* recurrent, int64_t max_spikes, int64_t threads) { \
        Call call; \
        return forward<R>({{tau_mem, tau_syn}, {times, units, offsets, B}, N, W, recurrent, R(duration), max_spikes}, threads); \
    } \
    int64_t eventprop_size_##suffix(const void* r) { return int64_t(((const Result<R>*)r)->spikes.size()); } \
    int64_t eventprop_overflow_##suffix(const void* r) { return ((const Result<R>*)r)->overflow; } \
    void eventprop_take_##suffix(const void* r, R* t, int32_t* u, int64_t* o) { take<R>((const Result<R>*)r, t, u, o); } \
    void eventprop_free_##suffix(void* r) { delete (Result<R>*)r; } \
    void eventprop_backward_##suffix(LAYER(R), const R* recurrent, const void* r, const R* g, R* dW, R* dR, R* dt, \
                                     int64_t threads) { \
        Call call; \
        backward<R>({{tau_mem, tau_syn}, {times, units, offsets, B}, N, W, recurrent, R(duration), 0}, \
                    *(const Result<R>*)r, g, dW, dR, dt, threads); \
    } \
    void eventprop_peaks_##suffix(LAYER(R), R* value, R* time, R* slope, int32_t* where, int64_t threads) { \
        Call call; \
        peaks<R>({{tau_mem, tau_syn}, {times, units, offsets, B}, N, W, R(duration)}, value, time, slope, where, threads); \
    } \
    void eventprop_peaks_backward_##suffix(LAYER(R), const R* time, const R* slope, const int32_t* where, const R* g, R* dW, R* dt, \
                                           int64_t threads) { \
        Call call; \
        peaks_backward<R>({{tau_mem, tau_syn}, {times, units, offsets, B}, N, W, R(duration)}, time, slope, where, g, dW, dt, threads); \
    } \
    void eventprop_voltages_##suffix(LAYER(R), int64_t S, const R* at, R* out, int64_t threads) { \
        Call call; \
        voltages<R>({{tau_mem, tau_syn}, {times, units, offsets, B}, N, W, R(duration)}, S, at, out, threads); \
    } \
    void eventprop_voltages_backward_##suffix(LAYER(R), int64_t S, const R* at, const R* g, R* dW, R* dt, int64_t threads) { \
        Call call; \
        voltages_backward<R>({{tau_mem, tau_syn}, {times, units, offsets, B}, N, W, R(duration)}, S, at, g, dW, dt, threads); \
    }

extern "C" {
DEFINE(float, f32)
DEFINE(double, f64)
}
