// Delays of synapses in the recurrence of a dense layer. A spike of neuron j at step t adds
//     w[j][i][k] to I[t + 1 + place[j][i] + k][i]    for k = 0 … run - 1
// for every neuron i: two steps of an interpolated delay, or the `reach` steps of a kernel, all from place 0 on.
// Currents on their way lie neuron by neuron, of one sample. Going back, what arrives is summed for PADDING samples side by side, so
// that a vector takes the gradients of as many samples from one place; these lie neuron by neuron and step by step.
#pragma once
#include <cstring>

#include "simd.h"

struct SynapseLoop {
    int64_t n, P, S, run, reach;  // neurons and their places, steps of a block; run is 2 or a multiple of PADDING
    const float* w;               // (P, P, run)
    const int32_t* place;         // (P, P), or null: 0
    static constexpr int64_t NV = PADDING / LANES, TILE = LANES / 2;  // neurons whose sums stay in registers

    int64_t length() const { return (S + reach) | 1; }  // of a neuron's currents: odd, so that neurons do not meet in the cache
    int64_t steps() const { return S + reach; }             // of a neuron's gradients
    int64_t start(int64_t j, int64_t i) const { return place ? place[j * P + i] : 0; }

    // What c spikes of neuron j send: late (n, length) begins a step after them
    void send(int64_t j, float c, float* late) const { place ? send<2>(j, c, late) : send<0>(j, c, late); }
    template <int RUN>
    void send(int64_t j, float c, float* late) const {
        const int64_t count = RUN ? RUN : run;
        for (int64_t i = 0; i < n; i++) {
            float* __restrict to = late + i * length() + start(j, i);
            const float* __restrict from = w + (j * P + i) * count;
            if (RUN)
                for (int64_t k = 0; k < RUN; k++) to[k] += c * from[k];
            else
                for (int64_t k = 0; k < count; k += LANES) store(to + k, load(to + k) + c * load(from + k));
        }
    }
    void receive(const float* late, float* I) const {
        for (int64_t i = 0; i < n; i++) I[i] += late[i * length()];
    }
    void next_block(float* late) const {
        for (int64_t i = 0; i < n; i++) {
            float* own = late + i * length();
            std::memmove(own, own + S, (length() - S) * sizeof(float));
            std::memset(own + length() - S, 0, S * sizeof(float));
        }
    }

    // Gradients dL/dI (n, steps, PADDING), from the first step of a block on
    void keep(const float* dI, int64_t nb, int64_t step, float* later) const {
        for (int64_t g = 0; g < nb; g++)
            for (int64_t i = 0; i < n; i++) later[(i * steps() + step) * PADDING + g] = dI[g * P + i];
    }
    void block_before(float* later) const {
        for (int64_t i = 0; i < n; i++) {
            float* own = later + i * steps() * PADDING;
            std::memmove(own + S * PADDING, own, reach * PADDING * sizeof(float));
        }
    }
    // dL/ds (P, PADDING) of the step before that at which `later` begins
    void collect(const float* later, float* gs) const { place ? collect<2>(later, gs) : collect<0>(later, gs); }
    template <int RUN>
    void collect(const float* later, float* gs) const {
        const int64_t count = RUN ? RUN : run;
        for (int64_t j = 0; j < P; j += TILE) {
            vf sum[TILE][NV] = {};
            for (int64_t i = 0; i < n; i++) {
                const float *from = later + i * steps() * PADDING, *weights = w + (j * P + i) * count;
                auto add = [&](int64_t r, int64_t k, int64_t step) {
                    const vf weight = splat(weights[r * P * count + k]);
                    for (int v = 0; v < NV; v++) sum[r][v] = fused(weight, load(from + step * PADDING + v * LANES), sum[r][v]);
                };
                if (RUN)
                    for (int64_t r = 0; r < TILE; r++)
                        for (int64_t k = 0, first = place[(j + r) * P + i]; k < RUN; k++) add(r, k, first + k);
                else
                    for (int64_t k = 0; k < count; k++)
                        for (int64_t r = 0; r < TILE; r++) add(r, k, k);
            }
            for (int64_t r = 0; r < TILE; r++)
                for (int v = 0; v < NV; v++) store(gs + (j + r) * PADDING + v * LANES, sum[r][v]);
        }
    }

    // The steps of a block, counted from its first, at which a neuron spikes in one of the samples: spikes (nb, PADDING)
    struct Active { int64_t nb; int32_t* steps; float* spikes; };
    // gradient (P, P, run) += sums over these steps and samples of s dL/dI at every arrival, for neurons j, j + 1, …, j + TILE - 1
    void correlate(int64_t j, const Active* active, const float* later, float* gradient) const {
        for (int64_t i = 0; i < n; i++)
            for (int64_t r = 0; r < TILE; r++) {
                const float* from = later + (i * steps() + 1 + start(j + r, i)) * PADDING;
                float* to = gradient + ((j + r) * P + i) * run;
                int64_t k = 0;
                for (; k + 4 <= run; k += 4) correlate<4>(active[r], from + k * PADDING, to + k);
                for (; k + 2 <= run; k += 2) correlate<2>(active[r], from + k * PADDING, to + k);
                for (; k < run; k++) correlate<1>(active[r], from + k * PADDING, to + k);
            }
    }
    template <int N>
    static void correlate(const Active& active, const float* from, float* to) {
        vf sum[N] = {};
        for (int64_t a = 0; a < active.nb; a++)
            for (int v = 0; v < NV; v++) {
                const vf s = load(active.spikes + a * PADDING + v * LANES);
                for (int k = 0; k < N; k++) sum[k] = fused(s, load(from + (active.steps[a] + k) * PADDING + v * LANES), sum[k]);
            }
        for (int k = 0; k < N; k++) to[k] += sum_of(sum[k]);
    }
};
