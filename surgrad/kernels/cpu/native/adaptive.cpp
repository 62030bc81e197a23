// A layer of adaptive LIF neurons through time, driven by a given current and by its own spikes. As in lif.cpp, a small group of
// samples walks through all steps in blocks: spikes are kept as bits and the state at the start of each block, and the backward
// pass computes the states of a block again before it runs the adjoint. Equations in surgrad/neurons/lif.py, `AdaptiveLIF`.
// Own spikes may come back after delays, one for each neuron, and weighed for each sample. With delays of the neurons that send, what
// arrives is read off the bits of the steps before; with delays of those that receive, currents W s wait in a ring. Delays of synapses
// are in synapse_loop.h.
#include "identity.h"
#include "network_run.h"
#include "synapse_loop.h"

extern "C" struct AdaptiveDesc {
    NetworkDesc* network;        // of one layer; its checkpoints are (blocks, B, 3, places): i, u, w
    const float *decay, *a, *b;  // of the adaptation current (places)
    const float* w_first;        // (B, places) or null
    float* w_last;               // (B, places) or null
    const float* g_w_last;       // (B, places) or null
    float* g_w_first;            // (B, places) or null
    float *g_decay, *g_a, *g_b;  // (threads, places), zeroed
    int64_t euler;               // whether the membrane feels w[t] instead of w[t+1]
    int64_t taps;                // steps over which a spike comes back to the layer; 0: after one step, as it is
    int64_t receiving;           // whether `shares` are those of the neuron that a spike reaches, else of the one that sends it
    const float* shares;         // (taps, places) of a spike of each neuron
    const float* kept;           // (B, places) weight of the neuron's spikes in its recurrence, or null
    float* g_shares;             // (threads, taps, places), zeroed, or null
    int64_t run, reach;          // delays of synapses, see synapse_loop.h; 0 without
    const float* synapses;       // (places, places, run); their gradient is g_recurrent of the layer
    const int32_t* place;        // (places, places) or null
    float* whole;                // (T, B, n) current with what came back, which drives the backward pass; or null
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
template <int RESET, bool REPLAY, bool EULER>
void step_row(const Row& row, const Coupling& coupling, const float* current, const float* threshold, States x, Bits* bits, States keep) {
    const Row k = row;
    const Coupling c = coupling;
    for (int64_t n = 0; n < k.n; n += LANES) {
        vf i = load(x.i + n), u = load(x.u + n), w = load(x.w + n);
        if (REPLAY) store(keep.i + n, i), store(keep.u + n, u), store(keep.w + n, w);
        else bits[n / LANES] = bits_of(u - 1.0f > (threshold ? load(threshold + n) : vf{}));
        vf s = zero_or_one(bits[n / LANES]);
        vf next = next_w(w, after_reset<RESET>(u, s), s, load(c.d + n), load(c.a + n), load(c.b + n));
        store(x.w + n, next);
        store(x.u + n, next_u<RESET>(u, i - (EULER ? w : next), s, load(k.b + n), load(k.c + n)));
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
template <int RESET, bool DIFF, bool EULER>
void adaptive_adjoint_row(const Row& row, const Coupling& coupling, const AdaptiveAdjointRow& of) {
    const Row k = row;
    const Coupling c = coupling;
    const AdaptiveAdjointRow r = of;
    auto add = [](float* to, vf value) { store(to, load(to) + value); };
    for (int64_t n = 0; n < k.n; n += LANES) {
        vf mem = load(k.b + n), gain = load(k.c + n), d = load(c.d + n), a = load(c.a + n), b = load(c.b + n);
        vf i = load(r.x.i + n), u = load(r.x.u + n), w = load(r.x.w + n), s = zero_or_one(r.bits[n / LANES]), stay = 1.0f - s;
        vf li = load(r.l.i + n), lu = load(r.l.u + n), gs = load(r.gs + n);
        vf v = after_reset<RESET>(u, s), drive = i - (EULER ? w : next_w(w, v, s, d, a, b));
        vf kept = RESET >= SUBTRACTIVE ? lu : stay * lu;              // reaches u[t] through the leak
        vf driven = RESET == MULTIPLICATIVE ? kept : lu;              // reaches the drive i[t] - w[t+1]
        vf felt = gain * driven, lw = EULER ? load(r.l.w + n) : load(r.l.w + n) - felt, dv = (1.0f - d) * a * lw;
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
        store(r.l.w + n, EULER ? d * lw - felt : d * lw);
    }
}

using Step = void (*)(const Row&, const Coupling&, const float*, const float*, States, Bits*, States);
using AdaptiveAdjoint = void (*)(const Row&, const Coupling&, const AdaptiveAdjointRow&);
#define BY_RESET(f, ...) {f<0, __VA_ARGS__>, f<1, __VA_ARGS__>, f<2, __VA_ARGS__>, f<3, __VA_ARGS__>}
const Step draw_rows[2][4] = {BY_RESET(step_row, false, false), BY_RESET(step_row, false, true)};
const Step known_rows[2][4] = {BY_RESET(step_row, true, false), BY_RESET(step_row, true, true)};
const AdaptiveAdjoint adaptive_adjoints[2][2][4] = {
    {BY_RESET(adaptive_adjoint_row, false, false), BY_RESET(adaptive_adjoint_row, true, false)},
    {BY_RESET(adaptive_adjoint_row, false, true), BY_RESET(adaptive_adjoint_row, true, true)}};

struct Ring {  // rows of the last `size` steps
    float* rows;
    int64_t size, row;
    float* at(int64_t t) const { return rows + t % size * row; }
};

struct Group {  // samples [b0, b0 + nb) of a layer
    const AdaptiveDesc& desc;
    const Run& run;
    const Layer& y;
    const LayerDesc& d;
    const NetworkDesc& net;
    const Coupling coupling;
    const SynapseLoop loop;
    const int64_t b0, nb, P, row;  // places, floats of one step of a group
    Group(const AdaptiveDesc& desc, const Run& run, int64_t b0, int64_t nb)
        : desc(desc), run(run), y(run.layers[0]), d(y.d), net(run.net), coupling{desc.decay, desc.a, desc.b},
          loop{y.n, y.places, run.S, desc.run, desc.reach, desc.synapses, desc.place}, b0(b0), nb(nb), P(y.places), row(run.G * y.places) {}

    static States take(Scratch& scratch, int64_t floats) { return {scratch.take(floats), scratch.take(floats), scratch.take(floats)}; }
    static States at(States x, int64_t offset) { return {x.i + offset, x.u + offset, x.w + offset}; }
    Bits* bits(int64_t t, int64_t g) const { return (Bits*)(d.bits + ((b0 + g) * net.T + t) * y.words); }
    float* checkpoint(int64_t block, int64_t g) const { return d.checkpoints + (block * net.B + b0 + g) * 3 * P; }

    int64_t work() const { return y.work() + loop.n * loop.n * loop.run / 16; }  // of a step of a sample, see `Layer`

    // What of the spikes before step t arrives there in the recurrence
    void arrivals(int64_t t, int64_t g, float* to) const {
        std::memset(to, 0, P * sizeof(float));
        for (int64_t tap = 0; tap < std::min(desc.taps, t + 1); tap++) {
            const Bits* s = run.own(0, b0 + g, t - 1 - tap);
            const float* share = desc.shares + tap * P;
            if (s)
                for (int64_t n = 0; n < P; n += LANES) store(to + n, fused(zero_or_one(s[n / LANES]), load(share + n), load(to + n)));
        }
        weigh(g, to);
    }
    void weigh(int64_t g, float* x) const {
        const float* kept = desc.kept + (b0 + g) * P;
        if (desc.kept)
            for (int64_t n = 0; n < P; n += LANES) store(x + n, load(kept + n) * load(x + n));
    }
    // W s[t] into its place of a ring
    void send(int64_t t, int64_t g, const Ring& sent, int32_t* events, float* weighed) const {
        float* to = sent.at(t) + g * P;
        std::memset(to, 0, P * sizeof(float));
        if (desc.kept) expand(bits(t, g), P, weighed), weigh(g, weighed), y.rec.gather_weighed(weighed, to);
        else y.rec.gather(events, decode(bits(t, g), y.words, events), to);
    }
    // I[t] += what of the currents in the ring arrives
    void receive(int64_t t, int64_t g, const Ring& sent, float* I) const {
        for (int64_t tap = 0; tap < std::min(desc.taps, t); tap++) {
            const float *from = sent.at(t - 1 - tap) + g * P, *share = desc.shares + tap * P;
            for (int64_t n = 0; n < P; n += LANES) store(I + n, fused(load(share + n), load(from + n), load(I + n)));
        }
    }
    void input(int64_t t, int64_t g, float* I, int32_t* events, float* arrived, const Ring& sent) const {
        y.pad(d.current + (t * net.B + b0 + g) * y.n, I);
        if (desc.receiving) receive(t, g, sent, I);
        else if (desc.taps) arrivals(t, g, arrived), y.rec.gather_weighed(arrived, I);
        else if (y.rec.exists) y.rec.gather(events, decode(run.own(0, b0 + g, t - 1), y.words, events), I);
    }
    float weight(int64_t g, int64_t n) const { return desc.kept ? desc.kept[(b0 + g) * P + n] : 1.0f; }
    // What the spikes of a step send through delays of synapses: late begins a step after them
    void send_late(int64_t t, int64_t g, int32_t* events, float* late) const {
        const int64_t count = decode(bits(t, g), y.words, events);
        for (int64_t e = 0; e < count; e++) loop.send(events[e], weight(g, events[e]), late);
    }
    // I[t] += what arrives, of one sample alone
    void receive_late(int64_t t, int64_t g, int32_t* events, float* late, float* I) const {
        const int64_t step = t % run.S;
        if (t && !step) loop.next_block(late);
        if (t) send_late(t - 1, g, events, late + step);
        loop.receive(late + step, I);
        if (desc.whole) y.unpad(I, desc.whole + (t * net.B + b0 + g) * y.n);
    }
    // dL/ds[t] from the steps at which s[t] arrives; `sums` has room for (P, PADDING)
    void collect_late(const float* later, float* sums, float* gs) const {
        loop.collect(later, sums);
        for (int64_t g = 0; g < nb; g++)
            for (int64_t n = 0; n < loop.n; n++) gs[g * P + n] += weight(g, n) * sums[n * PADDING + g];
    }
    void gradient_of_synapses(int64_t t0, int64_t t1, const float* later, int32_t* steps, float* spikes, float* gradient) const {
        const Interrupted interrupted;
        for (int64_t j = 0; j < P && !interrupted(SynapseLoop::TILE * loop.n * (t1 - t0)); j += SynapseLoop::TILE) {
            SynapseLoop::Active active[SynapseLoop::TILE];
            for (int64_t r = 0; r < SynapseLoop::TILE; r++) {
                active[r] = {0, steps + r * run.S, spikes + r * run.S * PADDING};
                for (int64_t t = t0; t < t1; t++) {
                    float* to = active[r].spikes + active[r].nb * PADDING;
                    bool any = false;
                    std::memset(to, 0, PADDING * sizeof(float));
                    for (int64_t g = 0; g < nb; g++)
                        if (((const uint64_t*)bits(t, g))[(j + r) / 64] >> (j + r) % 64 & 1) to[g] = weight(g, j + r), any = true;
                    if (any) active[r].steps[active[r].nb++] = t - t0;
                }
            }
            loop.correlate(j, active, later, gradient);
        }
    }
    const float* threshold(int64_t t, int64_t g, float* plain, float* padded) const {
        if (d.noise == STEP) return nullptr;
        draw_thresholds(d.noise, d.noise_p, net.seed, net.draw, d.index, (uint32_t)net.ids[b0 + g], net.first_step + t, 0, y.n, nullptr, plain);
        if (!y.padded()) return plain;
        y.pad(plain, padded);
        for (int64_t x = 0; x < d.positions; x++)
            std::fill(padded + x * d.stride + d.channels, padded + (x + 1) * d.stride, 1e30f);
        return padded;
    }

    void forward() const {
        const size_t bytes = P * sizeof(float);
        const int64_t on_the_way = desc.run ? loop.n * loop.length() : desc.receiving ? desc.taps * row : 0;
        Scratch scratch(3 * row + 5 * (P + 64) + run.events + 128 + on_the_way);
        States x = take(scratch, row);
        float *I = scratch.take(P), *arrived = scratch.take(P), *plain = scratch.take(P + 64), *padded = scratch.take(P + 64);
        int32_t* events = (int32_t*)scratch.take(run.events + 64);
        float* late = scratch.take(on_the_way);
        const Ring sent{late, desc.taps, row};
        if (desc.run) std::memset(late, 0, on_the_way * sizeof(float));
        const Interrupted interrupted;
        initial_state(y, b0, nb, x.i, x.u);
        for (int64_t g = 0; g < nb; g++) {
            if (desc.w_first) std::memcpy(x.w + g * P, desc.w_first + (b0 + g) * P, bytes);
            else std::memset(x.w + g * P, 0, bytes);
        }
        for (int64_t t = 0; t < net.T; t++)
            for (int64_t g = 0; g < nb; g++) {
                if (interrupted(work())) return;
                States mine = at(x, g * P);
                if (d.checkpoints && t % run.S == 0) {
                    float* to = checkpoint(t / run.S, g);
                    for (float* from : {mine.i, mine.u, mine.w}) std::memcpy(to, from, bytes), to += P;
                }
                if (desc.receiving && t) send(t - 1, g, sent, events, arrived);
                input(t, g, I, events, arrived, sent);
                if (desc.run) receive_late(t, g, events, late, I);
                ((uint64_t*)bits(t, g))[y.words - 1] = 0;
                draw_rows[desc.euler][d.reset](y.row, coupling, I, threshold(t, g, plain, padded), mine, bits(t, g), {});
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

    // dL/d(what arrives) at step t from dL/dI[t], for later use by `collect`
    void send_back(int64_t t, const float* dI, const Ring& back) const {
        float* to = back.at(t);
        if (desc.receiving) {
            std::memcpy(to, dI, row * sizeof(float));
            return;
        }
        std::memset(to, 0, row * sizeof(float));
        y.rec.dense_adjoint(nb, dI, P, to, P);
        for (int64_t g = 0; g < nb; g++) weigh(g, to + g * P);
    }
    // to += dL/d(what is sent at step t), s[t] or W s[t], and dL/dshares, from the steps at which it arrives; with value(g, n) of it
    template <class F>
    void collect(int64_t t, const Ring& back, F value, float* to, int64_t thread) const {
        for (int64_t tap = 0; tap < std::min(desc.taps, net.T - 1 - t); tap++)
            for (int64_t g = 0; g < nb; g++) {
                const float *from = back.at(t + 1 + tap) + g * P, *share = desc.shares + tap * P;
                float* sums = desc.g_shares ? desc.g_shares + (thread * desc.taps + tap) * P : nullptr;
                for (int64_t n = 0; n < P; n += LANES) {
                    vf r = load(from + n);
                    store(to + g * P + n, fused(load(share + n), r, load(to + g * P + n)));
                    if (sums) store(sums + n, fused(value(g, n), r, load(sums + n)));
                }
            }
    }
    void collect_spikes(int64_t t, const Ring& back, float* gs, int64_t thread) const {
        collect(t, back, [&](int64_t g, int64_t n) { return zero_or_one(bits(t, g)[n / LANES]); }, gs, thread);
    }
    // The same of W s[t], and from there to s[t] and W; `weighed` and `sums` have room for a row
    void collect_currents(int64_t t, const Ring& back, const Ring& sent, int32_t* events, float* weighed, float* sums, float* gs,
                          int64_t thread) const {
        std::memset(sums, 0, row * sizeof(float));
        collect(t, back, [&](int64_t g, int64_t n) { return load(sent.at(t) + g * P + n); }, sums, thread);
        float* gradient = d.g_recurrent ? d.g_recurrent + thread * y.rec.weights() : nullptr;
        for (int64_t g = 0; g < nb && gradient; g++) {
            if (desc.kept) expand(bits(t, g), P, weighed), weigh(g, weighed), y.rec.scatter_weighed(weighed, sums + g * P, gradient);
            else y.rec.scatter(events, decode(bits(t, g), y.words, events), sums + g * P, gradient);
        }
        std::memset(weighed, 0, row * sizeof(float));
        y.rec.dense_adjoint(nb, sums, P, weighed, P);
        for (int64_t g = 0; g < nb; g++) weigh(g, weighed + g * P);
        for (int64_t n = 0; n < nb * P; n += LANES) store(gs + n, load(gs + n) + load(weighed + n));
    }

    void backward(int64_t thread) const {
        const int64_t S = run.S;
        const size_t bytes = P * sizeof(float);
        const int64_t kept_steps = desc.receiving ? S + desc.taps : 0;
        const int64_t active = desc.run ? SynapseLoop::TILE * S : 0, gradients = desc.run ? loop.n * loop.steps() * PADDING : 0;
        Scratch scratch((7 * S + 9 + desc.taps + kept_steps) * row + run.halo + run.events + gradients + active * (PADDING + 1) +
                        (P + 80) * PADDING);
        States x = take(scratch, row), l = take(scratch, row), keep = take(scratch, S * row);
        float *h = scratch.take(S * row), *gs = scratch.take(S * row), *dI = scratch.take((S + 1) * row), *I = scratch.take(P);
        float *halo = scratch.take(run.halo), *arrived = scratch.take(S * row), *collected = scratch.take(row);
        const Ring back{scratch.take(desc.taps * row), desc.taps, row}, sent{scratch.take(kept_steps * row), kept_steps, row};
        float *later = scratch.take(gradients), *spikes = scratch.take(active * PADDING), *sums = scratch.take(P * PADDING);
        int32_t* steps = (int32_t*)scratch.take(active);
        std::memset(later, 0, gradients * sizeof(float));
        int32_t* events = (int32_t*)scratch.take(run.events + 64);
        std::memset(dI, 0, row * sizeof(float));
        last_gradient(d.g_i_last, b0 * P, l.i, nb * P);
        last_gradient(d.g_u_last, b0 * P, l.u, nb * P);
        last_gradient(desc.g_w_last, b0 * P, l.w, nb * P);
        const Interrupted interrupted;
        const auto adjoint = adaptive_adjoints[desc.euler][d.diff_reset != 0][d.reset];
        int64_t first_sent = net.T - 1;
        for (int64_t block = (net.T - 1) / S; block >= 0; block--) {
            const int64_t t0 = block * S, t1 = std::min(t0 + S, net.T);
            std::memcpy(dI + (t1 - t0) * row, dI, row * sizeof(float));  // of the first step of the block after this one
            for (int64_t g = 0; g < nb; g++) {
                const float* from = checkpoint(block, g);
                for (float* to : {x.i, x.u, x.w}) std::memcpy(to + g * P, from, bytes), from += P;
            }
            while (desc.receiving && first_sent > std::max<int64_t>(0, t0 - desc.taps)) {
                first_sent--;
                for (int64_t g = 0; g < nb; g++) send(first_sent, g, sent, events, arrived);
            }
            for (int64_t t = t0; t < t1; t++)
                for (int64_t g = 0; g < nb; g++) {
                    if (interrupted(work())) return;
                    const int64_t k = (t - t0) * row + g * P;
                    input(t, g, I, events, arrived + k, sent);
                    known_rows[desc.euler][d.reset](y.row, coupling, I, nullptr, at(x, g * P), bits(t, g), at(keep, k));
                    surrogate_row(d.surrogate, d.surrogate_p, keep.u + k, bits(t, g), h + k, P);
                    y.pad(d.g_out + t * d.g_out_t + (b0 + g) * d.g_out_b, gs + k);
                }
            for (int64_t t = t1 - 1; t >= t0; t--) {
                if (interrupted(nb * work())) return;
                const int64_t k = (t - t0) * row;
                if (desc.run) collect_late(later + (t + 1 - t0) * PADDING, sums, gs + k);
                else if (desc.taps) {
                    if (t + 1 < net.T) send_back(t + 1, dI + k + row, back);
                    if (!desc.receiving) collect_spikes(t, back, gs + k, thread);
                    else if (t + 1 < net.T) collect_currents(t, back, sent, events, arrived, collected, gs + k, thread);
                } else if (y.rec.exists) {  // s[t] enters I[t+1]
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
                    if (!d.g_recurrent || desc.receiving || desc.run) continue;
                    if (desc.taps)
                        y.rec.scatter_weighed(arrived + here, dI + here, d.g_recurrent + thread * y.rec.weights());
                    else
                        y.rec.scatter(events, decode(run.own(0, b0 + g, t - 1), y.words, events), dI + here,
                                      d.g_recurrent + thread * y.rec.weights());
                }
                if (desc.run) loop.keep(dI + k, nb, t - t0, later);
            }
            if (!desc.run) continue;
            if (d.g_recurrent) gradient_of_synapses(t0, t1, later, steps, spikes, d.g_recurrent + thread * P * P * loop.run);
            loop.block_before(later);
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
    run.in_parallel([&](int64_t, int64_t b0, int64_t nb) {
        const int64_t together = desc->run ? 1 : nb;  // currents of one sample on their way fit the cache
        for (int64_t b = b0; b < b0 + nb; b += together) Group(*desc, run, b, together).forward();
    });
}
void adaptive_backward(const AdaptiveDesc* desc) {
    Call call;
    Run run(*desc->network);
    run.in_parallel([&](int64_t thread, int64_t b0, int64_t nb) { Group(*desc, run, b0, nb).backward(thread); });
}
int64_t adaptive_size() { return sizeof(AdaptiveDesc); }
}
