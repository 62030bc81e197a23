// A layer of adaptive LIF neurons through time, driven by a given current and by its own spikes. As in lif.cpp, a small group of
// samples walks through all steps in blocks: spikes are kept as bits and the state at the start of each block, and the backward
// pass computes the states of a block again before it runs the adjoint. Equations in surgrad/neurons/lif.py, `AdaptiveLIF`.
#include "identity.h"
#include "network_run.h"

extern "C" struct AdaptiveDesc {
    NetworkDesc* network;        // of one layer; its checkpoints are (blocks, B, 3, places): i, u, w
    const float *decay, *a, *b;  // of the adaptation current (places)
    const float* w_first;        // (B, places) or null
    float* w_last;               // (B, places) or null
    const float* g_w_last;       // (B, places) or null
    float* g_w_first;            // (B, places) or null
    float *g_decay, *g_a, *g_b;  // (threads, places), zeroed
};

namespace {

struct Coupling { const float *d, *a, *b; };  // of the adaptation current, per neuron

// v[t], the membrane after the reset of step t, and w[t+1]
template <int RESET>
static inline vf after_reset(vf u, vf s) { return RESET >= SUBTRACTIVE ? u - s : u * (1.0f - s); }
static inline vf next_w(vf w, vf v, vf s, vf d, vf a, vf b) { return d * w + (1.0f - d) * (a * v + b * s); }

struct States { float *i, *u, *w; };

// One step of a row. With `threshold` spikes are drawn and written to `bits`; without it they are known (REPLAY) and the states
// before the step go to `keep`.
template <int RESET, bool REPLAY>
void step_row(const Row& k, const Coupling& c, const float* current, const float* threshold, States x, Bits* bits, States keep) {
    for (int64_t n = 0; n < k.n; n += LANES) {
        vf i = load(x.i + n), u = load(x.u + n), w = load(x.w + n);
        if (REPLAY) store(keep.i + n, i), store(keep.u + n, u), store(keep.w + n, w);
        else bits[n / LANES] = bits_of(u - 1.0f > (threshold ? load(threshold + n) : vf{}));
        vf s = zero_or_one(bits[n / LANES]);
        w = next_w(w, after_reset<RESET>(u, s), s, load(c.d + n), load(c.a + n), load(c.b + n));
        store(x.w + n, w);
        store(x.u + n, next_u<RESET>(u, i - w, s, load(k.b + n), load(k.c + n)));
        store(x.i + n, load(k.a + n) * i + load(current + n));
    }
}

struct AdaptiveAdjointRow {
    const float *h, *gs;     // surrogate, total gradient of s[t] through currents and losses
    const Bits* bits;
    States x, l;             // states at t; dL/d(i, u, w)[t+1] -> dL/d(i, u, w)[t]
    float* dI;               // dL/dI[t]
    float *g_syn, *g_mem, *g_d, *g_a, *g_b;  // sums of the derivatives by decays and couplings
    float dc;                // dc/db of the membrane: -1 if c = 1 - b, 0 if c = 1
};
template <int RESET, bool DIFF>
void adaptive_adjoint_row(const Row& k, const Coupling& c, const AdaptiveAdjointRow& r) {
    auto add = [](float* to, vf value) { store(to, load(to) + value); };
    for (int64_t n = 0; n < k.n; n += LANES) {
        vf mem = load(k.b + n), gain = load(k.c + n), d = load(c.d + n), a = load(c.a + n), b = load(c.b + n);
        vf i = load(r.x.i + n), u = load(r.x.u + n), w = load(r.x.w + n), s = zero_or_one(r.bits[n / LANES]), stay = 1.0f - s;
        vf li = load(r.l.i + n), lu = load(r.l.u + n), gs = load(r.gs + n);
        vf v = after_reset<RESET>(u, s), drive = i - next_w(w, v, s, d, a, b);
        vf kept = RESET >= SUBTRACTIVE ? lu : stay * lu;              // reaches u[t] through the leak
        vf driven = RESET == MULTIPLICATIVE ? kept : lu;              // reaches the drive i[t] - w[t+1]
        vf lw = load(r.l.w + n) - gain * driven, dv = (1.0f - d) * a * lw;
        add(r.g_syn + n, li * i);
        add(r.g_mem + n, kept * (RESET == SUBTRACTIVE_LEAK ? v : u) + r.dc * driven * drive);
        add(r.g_d + n, lw * (w - a * v - b * s));
        add(r.g_a + n, lw * (1.0f - d) * v);
        add(r.g_b + n, lw * (1.0f - d) * s);
        gs += (1.0f - d) * b * lw;
        if (DIFF) {
            gs -= by_reset<RESET>(u, drive, mem, gain) * lu;
            gs -= RESET >= SUBTRACTIVE ? dv : dv * u;
        }
        store(r.dI + n, li);
        store(r.l.i + n, load(k.a + n) * li + gain * driven);
        store(r.l.u + n, mem * kept + (RESET >= SUBTRACTIVE ? dv : dv * stay) + load(r.h + n) * gs);
        store(r.l.w + n, d * lw);
    }
}

using Step = void (*)(const Row&, const Coupling&, const float*, const float*, States, Bits*, States);
using AdaptiveAdjoint = void (*)(const Row&, const Coupling&, const AdaptiveAdjointRow&);
const Step draw_rows[] = {step_row<0, false>, step_row<1, false>, step_row<2, false>, step_row<3, false>};
const Step known_rows[] = {step_row<0, true>, step_row<1, true>, step_row<2, true>, step_row<3, true>};
const AdaptiveAdjoint adaptive_adjoints[4][2] = {{adaptive_adjoint_row<0, false>, adaptive_adjoint_row<0, true>},
                                                 {adaptive_adjoint_row<1, false>, adaptive_adjoint_row<1, true>},
                                                 {adaptive_adjoint_row<2, false>, adaptive_adjoint_row<2, true>},
                                                 {adaptive_adjoint_row<3, false>, adaptive_adjoint_row<3, true>}};

struct Group {  // samples [b0, b0 + nb) of a layer
    const AdaptiveDesc& desc;
    const Run& run;
    const Layer& y;
    const LayerDesc& d;
    const NetworkDesc& net;
    const Coupling coupling;
    const int64_t b0, nb, P, row;  // places, floats of one step of a group
    Group(const AdaptiveDesc& desc, const Run& run, int64_t b0, int64_t nb)
        : desc(desc), run(run), y(run.layers[0]), d(y.d), net(run.net), coupling{desc.decay, desc.a, desc.b}, b0(b0), nb(nb),
          P(y.places), row(run.G * y.places) {}

    static States take(Scratch& scratch, int64_t floats) { return {scratch.take(floats), scratch.take(floats), scratch.take(floats)}; }
    static States at(States x, int64_t offset) { return {x.i + offset, x.u + offset, x.w + offset}; }
    Bits* bits(int64_t t, int64_t g) const { return (Bits*)(d.bits + ((b0 + g) * net.T + t) * y.words); }
    float* checkpoint(int64_t block, int64_t g) const { return d.checkpoints + (block * net.B + b0 + g) * 3 * P; }

    void input(int64_t t, int64_t g, float* I, int32_t* events) const {
        y.pad(d.current + (t * net.B + b0 + g) * y.n, I);
        if (y.rec.exists) y.rec.gather(events, decode(run.own(0, b0 + g, t - 1), y.words, events), I);
    }
    const float* threshold(int64_t t, int64_t g, float* plain, float* padded) const {
        if (d.noise == STEP) return nullptr;
        draw_thresholds(d.noise, d.noise_p, net.seed, net.draw, d.index, (uint32_t)net.ids[b0 + g], net.first_step + t, 0, y.n, plain);
        if (!y.padded()) return plain;
        y.pad(plain, padded);
        for (int64_t x = 0; x < d.positions; x++)
            std::fill(padded + x * d.stride + d.channels, padded + (x + 1) * d.stride, 1e30f);
        return padded;
    }

    void forward() const {
        const size_t bytes = P * sizeof(float);
        Scratch scratch(3 * row + 4 * (P + 64) + run.events + 64);
        States x = take(scratch, row);
        float *I = scratch.take(P), *plain = scratch.take(P + 64), *padded = scratch.take(P + 64);
        int32_t* events = (int32_t*)scratch.take(run.events + 64);
        const Interrupted interrupted;
        initial_state(y, b0, nb, x.i, x.u);
        for (int64_t g = 0; g < nb; g++) {
            if (desc.w_first) std::memcpy(x.w + g * P, desc.w_first + (b0 + g) * P, bytes);
            else std::memset(x.w + g * P, 0, bytes);
        }
        for (int64_t t = 0; t < net.T; t++)
            for (int64_t g = 0; g < nb; g++) {
                if (interrupted(y.work())) return;
                States mine = at(x, g * P);
                if (d.checkpoints && t % run.S == 0) {
                    float* to = checkpoint(t / run.S, g);
                    for (float* from : {mine.i, mine.u, mine.w}) std::memcpy(to, from, bytes), to += P;
                }
                input(t, g, I, events);
                ((uint64_t*)bits(t, g))[y.words - 1] = 0;
                draw_rows[d.reset](y.row, coupling, I, threshold(t, g, plain, padded), mine, bits(t, g), {});
                expand(bits(t, g), P, I);
                y.unpad(I, d.out + (t * net.B + b0 + g) * y.n);
            }
        for (int64_t g = 0; g < nb; g++) {
            int64_t to = (b0 + g) * P;
            std::memcpy(d.i_last + to, x.i + g * P, bytes);
            std::memcpy(d.u_last + to, x.u + g * P, bytes);
            std::memcpy(desc.w_last + to, x.w + g * P, bytes);
        }
    }

    void backward(int64_t thread) const {
        const int64_t S = run.S;
        const size_t bytes = P * sizeof(float);
        Scratch scratch((6 * S + 8) * row + run.halo + run.events + 64 * PADDING);
        States x = take(scratch, row), l = take(scratch, row), keep = take(scratch, S * row);
        float *h = scratch.take(S * row), *gs = scratch.take(S * row), *dI = scratch.take((S + 1) * row), *I = scratch.take(P);
        float* halo = scratch.take(run.halo);
        int32_t* events = (int32_t*)scratch.take(run.events + 64);
        std::memset(dI, 0, row * sizeof(float));
        last_gradient(d.g_i_last, b0 * P, l.i, nb * P);
        last_gradient(d.g_u_last, b0 * P, l.u, nb * P);
        last_gradient(desc.g_w_last, b0 * P, l.w, nb * P);
        const Interrupted interrupted;
        const auto adjoint = adaptive_adjoints[d.reset][d.diff_reset != 0];
        for (int64_t block = (net.T - 1) / S; block >= 0; block--) {
            const int64_t t0 = block * S, t1 = std::min(t0 + S, net.T);
            std::memcpy(dI + (t1 - t0) * row, dI, row * sizeof(float));  // of the first step of the block after this one
            for (int64_t g = 0; g < nb; g++) {
                const float* from = checkpoint(block, g);
                for (float* to : {x.i, x.u, x.w}) std::memcpy(to + g * P, from, bytes), from += P;
            }
            for (int64_t t = t0; t < t1; t++)
                for (int64_t g = 0; g < nb; g++) {
                    if (interrupted(y.work())) return;
                    const int64_t k = (t - t0) * row + g * P;
                    input(t, g, I, events);
                    known_rows[d.reset](y.row, coupling, I, nullptr, at(x, g * P), bits(t, g), at(keep, k));
                    surrogate_row(d.surrogate, d.surrogate_p, keep.u + k, bits(t, g), h + k, P);
                    y.pad(d.g_out + t * d.g_out_t + (b0 + g) * d.g_out_b, gs + k);
                }
            for (int64_t t = t1 - 1; t >= t0; t--) {
                if (interrupted(nb * y.work())) return;
                const int64_t k = (t - t0) * row;
                if (y.rec.exists) {  // s[t] enters I[t+1]
                    const float* next = dI + k + row;
                    if (y.rec.single()) y.rec.dense_adjoint(nb, next, P, gs + k, P);
                    else
                        for (int64_t g = 0; g < nb; g++) y.rec.recurrent_adjoint(next + g * P, gs + k + g * P, halo);
                }
                for (int64_t g = 0; g < nb; g++) {
                    const int64_t here = k + g * P;
                    adjoint(y.row, coupling,
                            {h + here, gs + here, bits(t, g), at(keep, here), at(l, g * P), dI + here, d.g_a + thread * P, d.g_b + thread * P,
                             desc.g_decay + thread * P, desc.g_a + thread * P, desc.g_b + thread * P, d.unit_gain ? -1.0f : 0.0f});
                    if (d.g_current) y.unpad(dI + here, d.g_current + (t * net.B + b0 + g) * y.n);
                    if (d.g_recurrent)
                        y.rec.scatter(events, decode(run.own(0, b0 + g, t - 1), y.words, events), dI + here,
                                      d.g_recurrent + thread * y.rec.weights());
                }
            }
        }
        first_gradient(d.g_i_first, b0 * P, l.i, nb * P);
        first_gradient(d.g_u_first, b0 * P, l.u, nb * P);
        first_gradient(desc.g_w_first, b0 * P, l.w, nb * P);
    }
};

}  // namespace

extern "C" {
void adaptive_forward(const AdaptiveDesc* desc) {
    Call call;
    Run run(*desc->network);
    run.in_parallel([&](int64_t, int64_t b0, int64_t nb) { Group(*desc, run, b0, nb).forward(); });
}
void adaptive_backward(const AdaptiveDesc* desc) {
    Call call;
    Run run(*desc->network);
    run.in_parallel([&](int64_t thread, int64_t b0, int64_t nb) { Group(*desc, run, b0, nb).backward(thread); });
}
int64_t adaptive_size() { return sizeof(AdaptiveDesc); }
}
