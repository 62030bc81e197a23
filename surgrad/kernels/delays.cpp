// Input currents from spike events, through synapses with a delay each or with none. An event of input j at step t adds
//     w0[j][i] to I[t + k[j][i]][i]    and    w1[j][i] to I[t + k[j][i] + 1][i]
// for every neuron i: a delay between k and k + 1 steps is shared between the two (surgrad/layers.py, `DelayedDense`).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "simd.h"

extern "C" struct SynapsesDesc {
    int64_t nb_in, nb_out;      // nb_out is a multiple of LANES
    const float *w0, *w1;       // (nb_in, nb_out); w1 is null without delays
    const int32_t* place;       // (nb_in, nb_out), k nb_out + i for a delay of k whole steps; null without delays
    int64_t B, T, length;       // samples, steps with spikes, steps with currents
    int64_t shift, threads;     // every spike arrives `shift` steps later
    const int32_t *steps, *units;  // events, sorted by sample
    const int64_t* offsets;        // (B + 1,)
};

namespace {

using Desc = SynapsesDesc;

// Samples in fixed shares, so that sums over them are the same in every run
template <class F>
void over_samples(const Desc& d, F f) {
    const int64_t parts = std::max<int64_t>(1, std::min(d.threads, d.B));
    share(parts, [&](int64_t part) {
        for (int64_t b = d.B * part / parts; b < d.B * (part + 1) / parts; b++) f(b, part);
    });
}

template <class F>
void each_event(const Desc& d, int64_t b, F f) {
    for (int64_t e = d.offsets[b]; e < d.offsets[b + 1]; e++) f((d.steps[e] + d.shift) * d.nb_out, d.units[e] * d.nb_out);
}

// currents (length, nb_out) of one sample += what its events bring
void deliver(const Desc& d, int64_t b, float* currents) {
    if (!d.place)
        return each_event(d, b, [&](int64_t at, int64_t row) {
            for (int64_t i = 0; i < d.nb_out; i += LANES) store(currents + at + i, load(currents + at + i) + load(d.w0 + row + i));
        });
    each_event(d, b, [&](int64_t at, int64_t row) {
        float *first = currents + at, *second = first + d.nb_out;
        const float *w0 = d.w0 + row, *w1 = d.w1 + row;
        const int32_t* place = d.place + row;
        for (int64_t i = 0; i < d.nb_out; i++) first[place[i]] += w0[i], second[place[i]] += w1[i];
    });
}

// g0[j][i] += sum over the events of j of dL/dI at their first arrival, g1 likewise at the second
void collect(const Desc& d, int64_t b, const float* gradient, float* g0, float* g1) {
    if (!d.place)
        return each_event(d, b, [&](int64_t at, int64_t row) {
            for (int64_t i = 0; i < d.nb_out; i += LANES) store(g0 + row + i, load(g0 + row + i) + load(gradient + at + i));
        });
    each_event(d, b, [&](int64_t at, int64_t row) {
        const float *first = gradient + at, *second = first + d.nb_out;
        float *__restrict to0 = g0 + row, *__restrict to1 = g1 + row;
        const int32_t* place = d.place + row;
        for (int64_t i = 0; i < d.nb_out; i++) to0[i] += first[place[i]], to1[i] += second[place[i]];
    });
}

// dL/ds_j[t] = sum_i w0 G_i[t + shift + k] + w1 G_i[t + shift + k + 1] for all steps: here vectors run along time
void back_to_spikes(const Desc& d, const float* gradient, int64_t stride, float* by_unit, float* out) {
    constexpr int64_t NV = 4, WIDE = NV * LANES;
    for (int64_t i = 0; i < d.nb_out; i++) {
        for (int64_t t = 0; t < d.length; t++) by_unit[i * stride + t] = gradient[t * d.nb_out + i];
        std::fill(by_unit + i * stride + d.length, by_unit + (i + 1) * stride, 0.0f);
    }
    std::vector<const float*> first(d.nb_out);
    for (int64_t j = 0; j < d.nb_in; j++) {
        const float *w0 = d.w0 + j * d.nb_out, *w1 = d.w1 + j * d.nb_out;
        for (int64_t i = 0; i < d.nb_out; i++) first[i] = by_unit + i * stride + d.shift + d.place[j * d.nb_out + i] / d.nb_out;
        for (int64_t t = 0; t < d.T; t += WIDE) {
            vf sum[NV] = {};
            for (int64_t i = 0; i < d.nb_out; i++) {
                const float* from = first[i] + t;
                for (int v = 0; v < NV; v++) sum[v] += w0[i] * load(from + v * LANES) + w1[i] * load(from + v * LANES + 1);
            }
            for (int v = 0; v < NV; v++)
                for (int64_t n = 0; n < std::min<int64_t>(LANES, d.T - t - v * LANES); n++)
                    out[(t + v * LANES + n) * d.B * d.nb_in + j] = sum[v][n];
        }
    }
}

}  // namespace

extern "C" {

// currents (length, B, nb_out)
void synapses_forward(const Desc* desc, float* currents) {
    const Desc& d = *desc;
    std::vector<std::vector<float>> memory(d.threads);
    over_samples(d, [&](int64_t b, int64_t part) {
        auto& mine = memory[part];
        mine.assign(d.length * d.nb_out, 0.0f);
        deliver(d, b, mine.data());
        for (int64_t t = 0; t < d.length; t++)
            std::memcpy(currents + (t * d.B + b) * d.nb_out, mine.data() + t * d.nb_out, d.nb_out * sizeof(float));
    });
}

// From dL/dI (length, B, nb_out): sums g0, g1 (threads, nb_in, nb_out), zeroed, and dL/ds (T, B, nb_in) where it is wanted
void synapses_backward(const Desc* desc, const float* gradient, float* g0, float* g1, float* g_spikes) {
    const Desc& d = *desc;
    const int64_t stride = d.length + 5 * LANES, size = d.nb_in * d.nb_out;
    std::vector<std::vector<float>> memory(d.threads), by_unit(d.threads);
    over_samples(d, [&](int64_t b, int64_t part) {
        auto& mine = memory[part];
        mine.resize(d.length * d.nb_out);
        for (int64_t t = 0; t < d.length; t++)
            std::memcpy(mine.data() + t * d.nb_out, gradient + (t * d.B + b) * d.nb_out, d.nb_out * sizeof(float));
        collect(d, b, mine.data(), g0 + part * size, g1 ? g1 + part * size : nullptr);
        if (!g_spikes) return;
        by_unit[part].resize(d.nb_out * stride);
        back_to_spikes(d, mine.data(), stride, by_unit[part].data(), g_spikes + b * d.nb_in);
    });
}

int64_t synapses_size() { return sizeof(Desc); }
}
