// Input currents from spike events, through synapses with a delay each or with none. An event of input j at step t that stands for
// c spikes (c = 1 where they are not counted) adds c times
//     w0[j][i] to I[t + k[j][i]][i]    and    w1[j][i] to I[t + k[j][i] + 1][i]
// for every neuron i: a delay between k and k + 1 steps is shared between the two (surgrad/network/connections.py, `DelayedDense`).
// Delays of neurons alone are a sum over time for every unit, `SpreadDesc`.
// One sample at a time lies in the cache. With delays its currents are kept neuron by neuron, so that the two arrivals are neighbours.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "identity.h"
#include "parallel.h"
#include "simd.h"

extern "C" struct SynapsesDesc {
    int64_t nb_in, nb_out;         // nb_out is a multiple of PADDING
    const float* w;                // (nb_in, nb_out, 2) pairs w0, w1; without delays (nb_in, nb_out)
    const int32_t* place;          // (nb_in, nb_out), i stride + k for a delay of k whole steps; null without delays
    int64_t B, T, length, stride;  // samples, steps with spikes, steps with currents and the room for them
    int64_t shift, threads;        // every spike arrives `shift` steps later
    const int32_t *steps, *units;  // events, sorted by sample
    const int64_t* offsets;        // (B + 1,)
    const float* counts;           // spikes of every event, or null: one
};

// y[t + lead] = sum_k shares[k] x[t + lead - k] for every unit alone, and the sums of x[t + lead - k] y[t] for every k
extern "C" struct SpreadDesc {
    int64_t T, B, N, taps;     // x (T, B, N); N is a multiple of PADDING
    int64_t steps, lead;       // y (steps, B, N) begins `lead` steps later than x
    int64_t threads;
    const float *x, *shares;   // shares (taps, N)
    float *y, *sums;           // sums (threads, taps, N), zeroed
};

namespace {

using Desc = SynapsesDesc;
typedef float pair __attribute__((vector_size(8), aligned(4), may_alias));

pair& at(float* p, int64_t k) { return *(pair*)(p + k); }
pair at(const float* p, int64_t k) { return *(const pair*)(p + k); }

// Samples in fixed shares, so that sums over them are the same in every run
template <class D, class F>
void over_samples(const D& d, F f) {
    const int64_t parts = std::max<int64_t>(1, std::min(d.threads, d.B));
    share(parts, [&](int64_t part) {
        for (int64_t b = d.B * part / parts; b < d.B * (part + 1) / parts; b++) f(b, part);
    });
}
template <class F>
void each_event(const Desc& d, int64_t b, F f) {
    const Interrupted interrupted;
    auto all = [&](auto count) {
        for (int64_t e = d.offsets[b]; e < d.offsets[b + 1] && !interrupted(d.nb_out); e++)
            f(d.steps[e] + d.shift, d.units[e] * d.nb_out, count(e));
    };
    if (d.counts) all([&](int64_t e) { return d.counts[e]; });
    else all([](int64_t) { return 1.0f; });
}

// The inputs of one sample with an event in every eighth step or more, as rows over time in which they are shifted as a whole: a
// vector then holds neighbouring steps. Events of the others are taken one by one.
struct Rows {
    static constexpr int64_t EVERY = 8;
    const Desc& d;
    int64_t lead, size;          // zeros before the first step of a row, and floats of a row
    std::vector<int64_t> inputs;  // of each row
    std::vector<int64_t> row;    // of each input, -1 if it has none
    std::vector<float> spikes;
    explicit Rows(const Desc& d) : d(d), lead(d.length - d.T + 1), size(lead + d.length + 5 * LANES) {}

    void read(int64_t b) {
        row.assign(d.nb_in, 0), inputs.clear();
        for (int64_t e = d.offsets[b]; e < d.offsets[b + 1]; e++) row[d.units[e]]++;
        for (int64_t j = 0; j < d.nb_in; j++) {
            const bool many = row[j] * EVERY >= d.T;
            row[j] = many ? inputs.size() : -1;
            if (many) inputs.push_back(j);
        }
        spikes.assign(inputs.size() * size, 0.0f);
        for (int64_t e = d.offsets[b]; e < d.offsets[b + 1]; e++)
            if (row[d.units[e]] >= 0) spikes[row[d.units[e]] * size + lead + d.steps[e]] += d.counts ? d.counts[e] : 1.0f;
    }
    // currents (nb_out, stride), rounded after every operation like those of single events
    void deliver(float* currents) const {
        constexpr int64_t NV = 4, WIDE = NV * LANES;
        const Interrupted interrupted;
        for (int64_t i = 0; i < d.nb_out && !interrupted(inputs.size() * d.length); i++)
            for (int64_t t = 0; t < d.length; t += WIDE) {
                vf sum[NV];
                for (int v = 0; v < NV; v++) sum[v] = load(currents + i * d.stride + t + v * LANES);
                for (size_t r = 0; r < inputs.size(); r++) {
                    const int64_t synapse = inputs[r] * d.nb_out + i;
                    const float w0 = d.w[2 * synapse], w1 = d.w[2 * synapse + 1];
                    const float* from = &spikes[r * size + lead + t - d.shift - (d.place[synapse] - i * d.stride)];
                    for (int v = 0; v < NV; v++) sum[v] = (sum[v] + w0 * load(from + v * LANES)) + w1 * load(from + v * LANES - 1);
                }
                for (int v = 0; v < NV; v++) store(currents + i * d.stride + t + v * LANES, sum[v]);
            }
    }
    // sums laid out as w, from gradients laid out as currents
    void collect(const float* gradient, float* sums) const {
        const Interrupted interrupted;
        for (size_t r = 0; r < inputs.size() && !interrupted(2 * d.nb_out * d.T); r++)
            for (int64_t i = 0; i < d.nb_out; i++) {
                const int64_t synapse = inputs[r] * d.nb_out + i;
                const float *at = gradient + d.place[synapse] + d.shift, *from = &spikes[r * size + lead];
                vf first{}, second{};
                for (int64_t t = 0; t < d.T; t += LANES) {
                    vf s = load(from + t);
                    first = fused(s, load(at + t), first), second = fused(s, load(at + t + 1), second);
                }
                sums[2 * synapse] += sum_of(first), sums[2 * synapse + 1] += sum_of(second);
            }
    }
};

// Currents of one sample: (nb_out, stride) with delays, (length, nb_out) without
void deliver(const Desc& d, int64_t b, const Rows& rows, float* currents) {
    const int64_t n = d.nb_out;
    const float* const weight = d.w;
    if (!d.place)
        return each_event(d, b, [=](int64_t t, int64_t row, float c) {
            float* to = currents + t * n;
            for (int64_t i = 0; i < n; i += LANES) store(to + i, load(to + i) + c * load(weight + row + i));
        });
    const int32_t* const all = d.place;
    each_event(d, b, [=, &rows](int64_t t, int64_t row, float c) {
        if (rows.row[row / n] >= 0) return;
        const float* w = weight + 2 * row;
        const int32_t* place = all + row;
        for (int64_t i = 0; i < n; i++) at(currents + t, place[i]) += c * at(w, 2 * i);
    });
    rows.deliver(currents);
}

// Sums over the events of j of dL/dI at both arrivals, laid out as w
void collect(const Desc& d, int64_t b, const Rows& rows, const float* gradient, float* sums) {
    const int64_t n = d.nb_out;
    if (!d.place)
        return each_event(d, b, [=](int64_t t, int64_t row, float c) {
            const float* from = gradient + t * n;
            for (int64_t i = 0; i < n; i += LANES) store(sums + row + i, load(sums + row + i) + c * load(from + i));
        });
    rows.collect(gradient, sums);
    const int32_t* const all = d.place;
    each_event(d, b, [=, &rows](int64_t t, int64_t row, float c) {
        if (rows.row[row / n] >= 0) return;
        float* to = sums + 2 * row;
        const int32_t* place = all + row;
        for (int64_t i = 0; i < n; i++) at(to, 2 * i) += c * at(gradient + t, place[i]);
    });
}

// dL/ds_j[t] = sum_i w0 G_i[t + shift + k] + w1 G_i[t + shift + k + 1] for all steps: here vectors run along time
void back_to_spikes(const Desc& d, const float* gradient, float* out) {
    constexpr int64_t NV = 4, WIDE = NV * LANES;
    const Interrupted interrupted;
    for (int64_t j = 0; j < d.nb_in && !interrupted(d.nb_out * d.T); j++) {
        const float* w = d.w + 2 * j * d.nb_out;
        const int32_t* place = d.place + j * d.nb_out;
        for (int64_t t = 0; t < d.T; t += WIDE) {
            vf sum[NV] = {};
            for (int64_t i = 0; i < d.nb_out; i++) {
                const float* from = gradient + place[i] + d.shift + t;
                for (int v = 0; v < NV; v++)
                    sum[v] = fused(w[2 * i], load(from + v * LANES), fused(w[2 * i + 1], load(from + v * LANES + 1), sum[v]));
            }
            float steps[WIDE];
            for (int v = 0; v < NV; v++) store(steps + v * LANES, sum[v]);
            for (int64_t n = 0; n < std::min(WIDE, d.T - t); n++) out[(t + n) * d.B * d.nb_in + j] = steps[n];
        }
    }
}

// One sample of (steps, B, N) as (steps, N): far rows of a power of two apart would share few places of the cache
const float* alone(const float* all, int64_t steps, int64_t B, int64_t N, int64_t b, std::vector<float>& to) {
    to.resize(steps * N);
    for (int64_t t = 0; t < steps; t++) std::memcpy(to.data() + t * N, all + (t * B + b) * N, N * sizeof(float));
    return to.data();
}
void spread(const SpreadDesc& d, int64_t b, std::vector<float>& memory) {
    constexpr int64_t NV = PADDING / LANES;
    const float* x = alone(d.x, d.T, d.B, d.N, b, memory);
    const Interrupted interrupted;
    for (int64_t t = 0; t < d.steps && !interrupted(d.N * d.taps); t++) {
        const int64_t s = t + d.lead, k0 = std::max<int64_t>(0, s - d.T + 1), k1 = std::min(d.taps, s + 1);
        for (int64_t n = 0; n < d.N; n += PADDING) {
            vf sum[NV] = {};
            for (int64_t k = k0; k < k1; k++)
                for (int v = 0; v < NV; v++)
                    sum[v] = fused(load(d.shares + k * d.N + n + v * LANES), load(x + (s - k) * d.N + n + v * LANES), sum[v]);
            for (int v = 0; v < NV; v++) store(d.y + (t * d.B + b) * d.N + n + v * LANES, sum[v]);
        }
    }
}
void correlate(const SpreadDesc& d, int64_t b, std::vector<float>& memory, std::vector<float>& more, float* sums) {
    const float *x = alone(d.x, d.T, d.B, d.N, b, memory), *y = alone(d.y, d.steps, d.B, d.N, b, more);
    const Interrupted interrupted;
    for (int64_t k = 0; k < d.taps && !interrupted(d.N * d.T); k++) {
        const int64_t t0 = std::max<int64_t>(0, k - d.lead), t1 = std::min(d.steps, d.T + k - d.lead);
        for (int64_t n = 0; n < d.N; n += LANES) {
            vf sum = load(sums + k * d.N + n), more{};
            for (int64_t t = t0; t < t1; t += 2) {
                sum = fused(load(x + (t + d.lead - k) * d.N + n), load(y + t * d.N + n), sum);
                if (t + 1 < t1) more = fused(load(x + (t + 1 + d.lead - k) * d.N + n), load(y + (t + 1) * d.N + n), more);
            }
            store(sums + k * d.N + n, sum + more);
        }
    }
}

// Between one sample's own layout and (length, B, nb_out)
template <class F>
void each_step(const Desc& d, int64_t b, F copy) {
    for (int64_t t = 0; t < d.length; t++) copy(t, (t * d.B + b) * d.nb_out);
}
void write(const Desc& d, int64_t b, const float* own, float* all) {
    each_step(d, b, [&](int64_t t, int64_t to) {
        if (d.place)
            for (int64_t i = 0; i < d.nb_out; i++) all[to + i] = own[i * d.stride + t];
        else std::memcpy(all + to, own + t * d.nb_out, d.nb_out * sizeof(float));
    });
}
void read(const Desc& d, int64_t b, const float* all, float* own) {
    each_step(d, b, [&](int64_t t, int64_t from) {
        if (d.place)
            for (int64_t i = 0; i < d.nb_out; i++) own[i * d.stride + t] = all[from + i];
        else std::memcpy(own + t * d.nb_out, all + from, d.nb_out * sizeof(float));
    });
}

}  // namespace

extern "C" {

// currents (length, B, nb_out)
void synapses_forward(const Desc* desc, float* currents) {
    Call call;
    const Desc& d = *desc;
    std::vector<std::vector<float>> memory(d.threads);
    std::vector<Rows> rows(d.threads, Rows(d));
    over_samples(d, [&](int64_t b, int64_t part) {
        auto& own = memory[part];
        own.assign(d.nb_out * d.stride, 0.0f);
        if (d.place) rows[part].read(b);
        deliver(d, b, rows[part], own.data());
        write(d, b, own.data(), currents);
    });
}

// From dL/dI (length, B, nb_out): sums (threads, as w), zeroed, and dL/ds (T, B, nb_in) where it is wanted
void synapses_backward(const Desc* desc, const float* gradient, float* sums, float* g_spikes) {
    Call call;
    const Desc& d = *desc;
    const int64_t size = (d.place ? 2 : 1) * d.nb_in * d.nb_out;
    std::vector<std::vector<float>> memory(d.threads);
    std::vector<Rows> rows(d.threads, Rows(d));
    over_samples(d, [&](int64_t b, int64_t part) {
        auto& own = memory[part];
        if (d.place) rows[part].read(b);
        own.resize(d.nb_out * d.stride);  // what lies beyond `length` of each neuron stays 0
        read(d, b, gradient, own.data());
        collect(d, b, rows[part], own.data(), sums + part * size);
        if (g_spikes) back_to_spikes(d, own.data(), g_spikes + b * d.nb_in);
    });
}

void spread_forward(const SpreadDesc* desc) {
    Call call;
    std::vector<std::vector<float>> memory(desc->threads);
    over_samples(*desc, [&](int64_t b, int64_t part) { spread(*desc, b, memory[part]); });
}
void spread_correlate(const SpreadDesc* desc) {
    Call call;
    std::vector<std::vector<float>> memory(2 * desc->threads);
    over_samples(*desc, [&](int64_t b, int64_t part) {
        correlate(*desc, b, memory[2 * part], memory[2 * part + 1], desc->sums + part * desc->taps * desc->N);
    });
}

int64_t spread_size() { return sizeof(SpreadDesc); }
int64_t synapses_size() { return sizeof(Desc); }
}
