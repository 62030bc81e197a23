// One row of neurons at one time step: forward, noise, surrogate and adjoint. Equations in surgrad/neurons/lif.py.
#pragma once
#include "simd.h"

enum Reset { MULTIPLICATIVE, MULTIPLICATIVE_LEAK, SUBTRACTIVE, SUBTRACTIVE_LEAK };
enum Surrogate { SUPERSPIKE, ASYMPTOTIC, SIGMOID_PRIME, ESSER, EXPONENTIAL, SPIKER, TRUE_GRADIENT, ARCTAN, SLAYER };
enum Noise { STEP, SIGMOID, EXPONENTIAL_NOISE };

// u[t+1] from u[t], i[t] and s[t]
template <int RESET>
static inline vf next_u(vf u, vf i, vf s, vf b, vf c) {
    if (RESET == MULTIPLICATIVE) return (b * u + c * i) * (1.0f - s);
    if (RESET == MULTIPLICATIVE_LEAK) return b * u * (1.0f - s) + c * i;
    if (RESET == SUBTRACTIVE_LEAK) return b * (u - s) + c * i;
    return b * u + c * i - s;
}

// -du[t+1]/dr[t]
template <int RESET>
static inline vf by_reset(vf u, vf i, vf b, vf c) {
    if (RESET == MULTIPLICATIVE) return b * u + c * i;
    if (RESET == MULTIPLICATIVE_LEAK) return b * u;
    return RESET == SUBTRACTIVE_LEAK ? b : splat(1.0f);
}

struct Row {  // constants of a layer, per neuron
    const float *a, *b, *c;
    int64_t n;
};

// Draw spikes from u against `threshold` (null: 0), advance i and u. Returns through `bits`, one per neuron.
template <int RESET>
static void forward_row(const Row& row, const float* current, const float* threshold, float* i, float* u, Bits* bits) {
    const Row k = row;  // a copy: what is stored below might change `row`, for all that the compiler knows
    for (int64_t n = 0; n < k.n; n += LANES) {
        vf un = load(u + n), in = load(i + n);
        vi fired = un - 1.0f > (threshold ? load(threshold + n) : vf{});
        vf s = where(fired, splat(1.0f));
        bits[n / LANES] = bits_of(fired);
        store(u + n, next_u<RESET>(un, in, s, load(k.b + n), load(k.c + n)));
        store(i + n, load(k.a + n) * in + load(current + n));
    }
}
// Random thresholds of the escape noise for neurons first, first + 1, ... of one layer, sample and step (unpadded; first in 64s).
// With the membranes `u` of these neurons, a threshold that none of a vector can reach may be any that none reaches.
static void draw_thresholds(int noise, const float* p, uint32_t seed, uint32_t draw, uint32_t layer, uint32_t sample, uint32_t step,
                            int64_t first, int64_t nb_neurons, const float* u, float* out) {
    const bool sigmoid = noise == SIGMOID;
    // a spike needs r g < exp((u - 1) / scale): of the sigmoid, whose threshold is scale log(r / (1 - r)), because r <= r / (1 - r)
    const float scale = sigmoid ? p[0] : p[1], g = sigmoid ? 1.0f : p[0], slope = 1.0f / scale;
    if (LANES > 8 || !(scale > 0.0f && slope < 1e30f)) u = nullptr;  // of 16 neurons one is near its threshold every other time
    for (int64_t n = 0; n < nb_neurons; n += 4 * LANES) {
        vl c[2][4];
        for (int v = 0; v < 2; v++) {
            c[v][0] = counters() + (uint64_t)((first + n) / 4 + v * COUNTERS);
            c[v][1] = vl{} + (uint64_t)step, c[v][2] = vl{} + (uint64_t)sample, c[v][3] = vl{} + (uint64_t)layer;
        }
        philox(c, seed, draw);
        vu words[4];
        words_of(c[0], words), words_of(c[1], words + 2);
        for (int w = 0; w < 4; w++) {
            const int64_t k = n + w * LANES;
            vf r = (to_float(as<vi>(words[w] >> 9)) + 0.5f) * 0x1p-23f;
            if (u && k < nb_neurons && !bits_of(r * g < exp_at_most((load(u + k) - 1.0f) * slope))) store(out + k, splat(1e30f));
            else store(out + k, sigmoid ? vlog(r / (1.0f - r)) * p[0] : p[1] * vlog(r * p[0]));
        }
    }
}

// Calls `use` with h: of u - 1 and of the bits of a vector of neurons.
template <class F>
static inline void with_surrogate(int surrogate, const float* p, F use) {
    const float beta = p[0], scale = p[1], p0 = p[0], delta = p[1];
    const vf one = splat(1.0f);
    switch (surrogate) {
        case SUPERSPIKE:
            return use([=](vf x, Bits) { vf d = fused(beta, vabs(x), one); return 1.0f / (d * d); });
        case ASYMPTOTIC:
            return use([=](vf x, Bits) { vf d = fused(beta, vabs(x), one); return beta / (d * d); });
        case SIGMOID_PRIME:
            return use([=](vf x, Bits) {
                vf e = vexp(-beta * vabs(x)), d = 1.0f + e;
                return scale * e / (d * d);
            });
        case ESSER:
            return use([=](vf x, Bits) { return vmax(1.0f - beta * vabs(x), vf{}); });
        case EXPONENTIAL:
            return use([=](vf x, Bits) {
                vf q = p0 * vexp(x / delta);
                return where(q < 1.0f, q / delta);
            });
        case SPIKER:
            return use([](vf, Bits s) { return zero_or_one(s); });
        case ARCTAN:
            return use([=](vf x, Bits) { vf y = beta * x; return scale / fused(y, y, one); });
        case SLAYER:
            return use([=](vf x, Bits) { return scale * vexp(-beta * vabs(x)); });
        default:
            return use([](vf, Bits) { return vf{}; });
    }
}
static void surrogate_row(int surrogate, const float* p, const float* u, const Bits* bits, float* h, int64_t n) {
    with_surrogate(surrogate, p, [=](auto f) {
        for (int64_t k = 0; k < n; k += LANES) store(h + k, f(load(u + k) - 1.0f, bits[k / LANES]));
    });
}

// What the adjoint needs, with known spikes: h[t], and u[t] and i[t] where asked for; advances i and u.
template <int RESET>
static void replay_row(const Row& k, const float* current, const Bits* bits, int surrogate, const float* p, float* i, float* u, float* h,
                       float* keep_u, float* keep_i) {
    with_surrogate(surrogate, p, [=](auto f) {
        for (int64_t n = 0; n < k.n; n += LANES) {
            vf un = load(u + n), in = load(i + n);
            Bits fired = bits[n / LANES];
            store(h + n, f(un - 1.0f, fired));
            if (keep_u) store(keep_u + n, un), store(keep_i + n, in);
            store(u + n, next_u<RESET>(un, in, zero_or_one(fired), load(k.b + n), load(k.c + n)));
            store(i + n, load(k.a + n) * in + load(current + n));
        }
    });
}

struct AdjointRow {  // one sample and step of the backward pass
    const float *h, *gs;       // surrogate, total gradient of s[t] through currents and losses
    const float *u, *i;        // u[t], i[t]: only with diff_reset or trained time constants
    const Bits* bits;
    float *lu, *li;            // dL/du[t+1], dL/di[t+1] -> dL/du[t], dL/di[t]
    float* dI;                 // dL/dI[t]
    float *ga, *gb;            // sums of dL/da, dL/db, or null
    float dc;                  // dc/db: -1 if c = 1 - b, 0 if c = 1
};
template <int RESET, bool DIFF, bool TAU>
static void adjoint_row(const Row& row, const AdjointRow& of) {
    const Row k = row;
    const AdjointRow r = of;
    for (int64_t n = 0; n < k.n; n += LANES) {
        vf a = load(k.a + n), b = load(k.b + n), c = load(k.c + n);
        vf lu = load(r.lu + n), li = load(r.li + n), gs = load(r.gs + n);
        vf stay = 1.0f - zero_or_one(r.bits[n / LANES]);
        vf u{}, i{};
        if (DIFF || TAU) u = load(r.u + n), i = load(r.i + n);
        if (TAU) {
            vf db = RESET == MULTIPLICATIVE        ? (u + r.dc * i) * stay
                    : RESET == MULTIPLICATIVE_LEAK ? u * stay + r.dc * i
                    : RESET == SUBTRACTIVE_LEAK    ? u - 1.0f + stay + r.dc * i
                                                   : u + r.dc * i;
            store(r.ga + n, fused(li, i, load(r.ga + n)));
            store(r.gb + n, fused(lu, db, load(r.gb + n)));
        }
        if (DIFF) gs -= by_reset<RESET>(u, i, b, c) * lu;
        vf kept = RESET == SUBTRACTIVE || RESET == SUBTRACTIVE_LEAK ? lu : stay * lu;
        store(r.dI + n, li);
        store(r.li + n, fused(a, li, c * (RESET == MULTIPLICATIVE ? kept : lu)));
        store(r.lu + n, fused(load(r.h + n), gs, b * kept));
    }
}
