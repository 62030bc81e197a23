// One row of neurons at one time step: forward, noise, surrogate and adjoint. Equations in surgrad/neurons.py.
#pragma once
#include "simd.h"

enum Reset { MULTIPLICATIVE, MULTIPLICATIVE_LEAK, SUBTRACTIVE, SUBTRACTIVE_LEAK };
enum Surrogate { SUPERSPIKE, ASYMPTOTIC, SIGMOID_PRIME, ESSER, EXPONENTIAL, SPIKER, TRUE_GRADIENT };
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
    long n;
};

// Draw spikes from u against `threshold` (null: 0), advance i and u. Returns through `bits`, 16 neurons per uint16.
template <int RESET>
static void forward_row(const Row& k, const float* current, const float* threshold, float* i, float* u, uint16_t* bits) {
    for (long n = 0; n < k.n; n += LANES) {
        vf un = load(u + n), in = load(i + n);
        vi fired = threshold ? (un - 1.0f > load(threshold + n)) : (un - 1.0f > vf{});
        vf s = (vf)((vi)splat(1.0f) & fired);
        bits[n / LANES] = bits_of(fired);
        store(u + n, next_u<RESET>(un, in, s, load(k.b + n), load(k.c + n)));
        store(i + n, load(k.a + n) * in + load(current + n));
    }
}
// The same with known spikes, keeping u[t] (and i[t] where asked for): what the adjoint needs.
template <int RESET>
static void replay_row(const Row& k, const float* current, const uint16_t* bits, float* i, float* u, float* keep_u, float* keep_i) {
    for (long n = 0; n < k.n; n += LANES) {
        vf un = load(u + n), in = load(i + n), s = zero_or_one(bits[n / LANES]);
        store(keep_u + n, un);
        if (keep_i) store(keep_i + n, in);
        store(u + n, next_u<RESET>(un, in, s, load(k.b + n), load(k.c + n)));
        store(i + n, load(k.a + n) * in + load(current + n));
    }
}

// Random thresholds of the escape noise for neurons first, first + 1, ... of one layer, sample and step (unpadded; first in 64s).
static void draw_thresholds(int noise, const float* p, uint32_t seed, uint32_t draw, uint32_t layer, uint32_t sample, uint32_t step,
                            long first, long nb_neurons, float* out) {
    const vu lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (long n = 0; n < nb_neurons; n += 4 * LANES) {
        vu c[4] = {lane + (uint32_t)((first + n) / 4), vu{} + step, vu{} + sample, vu{} + layer};
        philox(c, seed, draw);
        vf th[4];
        for (int w = 0; w < 4; w++) {
            vf r = (__builtin_convertvector((vi)(c[w] >> 9), vf) + 0.5f) * 0x1p-23f;
            th[w] = noise == SIGMOID ? vlog(r / (1.0f - r)) * p[0] : p[1] * vlog(r * p[0]);
        }
        for (int l = 0; l < LANES; l++)
            for (int w = 0; w < 4; w++) out[n + 4 * l + w] = th[w][l];
    }
}

// h(u - 1) in place of u
template <class F>
static void map_row(float* u, const uint16_t* bits, long n, F f) {
    for (long k = 0; k < n; k += LANES) store(u + k, f(load(u + k) - 1.0f, bits[k / LANES]));
}
static void surrogate_row(int surrogate, const float* p, const float* u, const uint16_t* bits, float* h, long n) {
    if (h != u) std::memcpy(h, u, n * sizeof(float));
    const float beta = p[0], scale = p[1], p0 = p[0], delta = p[1];
    switch (surrogate) {
        case SUPERSPIKE:
            return map_row(h, bits, n, [=](vf x, uint32_t) { vf d = beta * vabs(x) + 1.0f; return 1.0f / (d * d); });
        case ASYMPTOTIC:
            return map_row(h, bits, n, [=](vf x, uint32_t) { vf d = beta * vabs(x) + 1.0f; return beta / (d * d); });
        case SIGMOID_PRIME:
            return map_row(h, bits, n, [=](vf x, uint32_t) {
                vf e = vexp(-beta * vabs(x)), d = 1.0f + e;
                return scale * e / (d * d);
            });
        case ESSER:
            return map_row(h, bits, n, [=](vf x, uint32_t) { return vmax(1.0f - beta * vabs(x), vf{}); });
        case EXPONENTIAL:
            return map_row(h, bits, n, [=](vf x, uint32_t) {
                vf q = p0 * vexp(x / delta);
                return (vf)((vi)(q / delta) & (q < 1.0f));
            });
        case SPIKER:
            return map_row(h, bits, n, [](vf, uint32_t s) { return zero_or_one(s); });
        default:
            return map_row(h, bits, n, [](vf, uint32_t) { return vf{}; });
    }
}

struct AdjointRow {  // one sample and step of the backward pass
    const float *h, *gs;       // surrogate, total gradient of s[t] through currents and losses
    const float *u, *i;        // u[t], i[t]: only with diff_reset or trained time constants
    const uint16_t* bits;
    float *lu, *li;            // dL/du[t+1], dL/di[t+1] -> dL/du[t], dL/di[t]
    float* dI;                 // dL/dI[t]
    float *ga, *gb;            // sums of dL/da, dL/db, or null
    float dc;                  // dc/db: -1 if c = 1 - b, 0 if c = 1
};
template <int RESET, bool DIFF, bool TAU>
static void adjoint_row(const Row& k, const AdjointRow& r) {
    for (long n = 0; n < k.n; n += LANES) {
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
            store(r.ga + n, load(r.ga + n) + li * i);
            store(r.gb + n, load(r.gb + n) + lu * db);
        }
        if (DIFF) gs -= by_reset<RESET>(u, i, b, c) * lu;
        vf kept = RESET == SUBTRACTIVE || RESET == SUBTRACTIVE_LEAK ? lu : stay * lu;
        store(r.dI + n, li);
        store(r.li + n, a * li + c * (RESET == MULTIPLICATIVE ? kept : lu));
        store(r.lu + n, b * kept + load(r.h + n) * gs);
    }
}
