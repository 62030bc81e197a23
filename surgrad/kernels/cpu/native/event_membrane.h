// A leaky membrane behind an exponential synapse, followed from event to event, and its adjoint:
//
//   tau_mem dV/dt = -V + I,   tau_syn dI/dt = -I,   I += W[u] at an input spike of u.
//
// Over an interval d without an event V(d) = m V + k I and I(d) = s I, with the same m, s, k for all neurons.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "parallel.h"

namespace {

template <class R>
struct Factors {
    R m, s, k;
};

template <class R>
struct Membrane {
    R tau_mem, tau_syn, delta;  // delta = 1 / tau_syn - 1 / tau_mem
    Membrane(double mem, double syn) : tau_mem(mem), tau_syn(syn), delta((mem - syn) / (mem * syn)) {}

    // k = tau_syn / (tau_mem - tau_syn) (m - s), written so that it stays accurate up to equal time constants; the digits
    // that a difference loses are not float's digits, and two exponentials in double are faster than expm1 in float
    Factors<R> after(R d) const {
        R x = d * delta;
        if (std::abs(x) < R(1e-4)) {
            R m = std::exp(-d / tau_mem);
            return {m, std::exp(-d / tau_syn), m * d / tau_mem * (1 - x / 2 + x * x / 6)};
        }
        double m = std::exp(-double(d) / tau_mem), scale = 1 / (double(delta) * tau_mem);
        if constexpr (sizeof(R) < sizeof(double)) {
            double s = std::exp(-double(d) / tau_syn);
            return {R(m), R(s), R((m - s) * scale)};
        }
        double drop = -std::expm1(-double(x));
        return {R(m), R(m * (1 - drop)), R(m * drop * scale)};
    }
    // Time of the maximum of V when it starts to rise, I > V; negative if it rises for ever
    R peak(R V, R I) const {
        R below = V * delta + I / tau_mem;
        if (!(below > 0)) return -1;
        R y = (I - V) * delta / below;
        return (I - V) / below * (std::abs(y) < R(1e-4) ? 1 - y / 2 + y * y / 3 : std::log1p(y) / y);
    }
    // First time in [0, D] at which V reaches 1, or -1; f = after(D). V < 1 at the start.
    R crossing(R V, R I, R D, Factors<R> f) const {
        if (!(I > 1) || !(I > V)) return -1;
        if (V >= 1) return 0;
        R last = D, V_last = f.m * V + f.k * I;
        if (V_last < 1) {
            if (f.s * I >= V_last) return -1;
            last = peak(V, I);
            if (!(last >= 0) || last > D) return -1;
            f = after(last);
            if (f.m * V + f.k * I < 1) return -1;
        }
        R d = tau_mem == 2 * tau_syn ? quadratic(V, I) : delta == 0 ? lambert(V, I) : iterate(V, I, last);
        return std::isfinite(d) ? std::min(std::max(d, R(0)), last) : last;
    }
    // tau_mem = 2 tau_syn: with x = exp(-d / tau_mem), (V + I) x - I x^2 = 1
    R quadratic(R V, R I) const {
        R P = V + I, root = std::sqrt(std::max(P * P - 4 * I, R(0)));
        return tau_mem * std::log(2 * I / (P + root));
    }
    // Equal time constants: with x = V / I + d / tau, x exp(-x) = exp(-V / I) / I, x = -W0(-exp(-V / I) / I)
    R lambert(R V, R I) const {
        double z = -std::exp(-double(V) / I) / I, p = std::sqrt(std::max(2 * (2.718281828459045 * z + 1), 0.0));
        double w = p < 0.8 ? -1 + p - p * p / 3 + 11 * p * p * p / 72 : z * (1 - z + 1.5 * z * z);
        for (int i = 0; i < 20 && p > 1e-7; i++) {
            double e = std::exp(w), f = w * e - z, step = f / (e * (w + 1) - (w + 2) * f / (2 * w + 2));
            w -= step;
            if (std::abs(step) < 1e-16 * (1 + std::abs(w))) break;
        }
        return tau_mem * R(-w - double(V) / I);
    }
    // Steps to the root of the parabola that has V's value, slope and curvature (of third order), Newton's where it stays
    // below 1, kept inside the bracket [lo, hi].
    R iterate(R V, R I, R hi) const {
        const R tiny = 2 * std::numeric_limits<R>::epsilon() * tau_mem;
        R lo = 0, d = 0;
        for (int i = 0; i < 100; i++) {
            Factors<R> f = after(d);
            R v = f.m * V + f.k * I, c = f.s * I, slope = (c - v) / tau_mem, curve = (-c / tau_syn - slope) / tau_mem;
            if (v >= 1) hi = d;
            else lo = d;
            R square = slope * slope + 2 * curve * (1 - v);
            R next = d + 2 * (1 - v) / (slope + (square > 0 ? std::sqrt(square) : slope));
            if (std::abs(next - d) <= tiny) return next;
            if (!(next > lo && next < hi)) next = v >= 1 || !(slope > 0) ? (lo + hi) / 2 : std::min(next, hi);
            if (next == d) return d;
            d = next;
        }
        return d;
    }
};

template <class R>
struct Input {
    const R* times;
    const int32_t* units;
    const int64_t* offsets;
    int64_t B;
};

// Rows of W that the input can reach
template <class R>
size_t rows(const Input<R>& in) {
    int32_t top = 0;
    for (int64_t e = 0; e < in.offsets[in.B]; e++) top = std::max(top, in.units[e] + 1);
    return size_t(top);
}

// Contiguous shares of the samples, one per thread
template <class F>
void share(int64_t B, int64_t threads, F work) {
    const int64_t n = std::max<int64_t>(1, std::min(threads, B));
    share(n, [&](int64_t k) { work(k, B * k / n, B * (k + 1) / n); });
}

template <class R>
void axpy(int64_t N, const R* x, R* y) {
    for (int64_t n = 0; n < N; n++) y[n] += x[n];
}

// A spike that adds `w` to all currents: the derivative by its time, given those by all V and I
template <class R>
R by_time(int64_t N, const R* w, const R* pV, const R* pI, R tau_mem, R tau_syn) {
    constexpr int64_t LANES = 16;  // sums side by side, which the compiler may keep in one register
    const R a = 1 / tau_syn, b = 1 / tau_mem;
    R sums[LANES] = {}, sum = 0;
    int64_t n = 0;
    for (; n + LANES <= N; n += LANES)
        for (int64_t k = 0; k < LANES; k++) sums[k] += w[n + k] * (a * pI[n + k] - b * pV[n + k]);
    for (; n < N; n++) sum += w[n] * (a * pI[n] - b * pV[n]);
    for (R part : sums) sum += part;
    return sum;
}

// What the adjoint of a sample leaves behind
template <class R>
struct Gradients {
    R *W, *recurrent;  // of this thread
    R* times;          // of all input events, or null
};

template <class R>
struct Adjoint {
    const Membrane<R>& membrane;
    const Input<R>& in;
    int64_t N;
    const R* W;
    Gradients<R> out;
    std::vector<R> pV, pI;
    Interrupted interrupted;

    Adjoint(const Membrane<R>& m, const Input<R>& in, int64_t N, const R* W, Gradients<R> out)
        : membrane(m), in(in), N(N), W(W), out(out), pV(N), pI(N) {}

    void reset() { std::fill(pV.begin(), pV.end(), R(0)), std::fill(pI.begin(), pI.end(), R(0)); }
    void back(R d) {
        Factors<R> f = membrane.after(d);
        R *v = pV.data(), *i = pI.data();
        for (int64_t n = 0; n < N; n++) i[n] = f.s * i[n] + f.k * v[n], v[n] *= f.m;
    }
    void back(int64_t n, R d) {
        Factors<R> f = membrane.after(d);
        pI[n] = f.s * pI[n] + f.k * pV[n], pV[n] *= f.m;
    }
    R by_time(const R* w) const { return ::by_time(N, w, pV.data(), pI.data(), membrane.tau_mem, membrane.tau_syn); }
    void event(int64_t e) {
        const int64_t row = in.units[e] * N;
        axpy(N, pI.data(), out.W + row);
        if (out.times) out.times[e] = by_time(W + row);
    }
};

// Gradient buffers of every thread but the first, which writes into the result
template <class R>
struct Buffers {
    std::vector<std::vector<R>> own;
    R* result;
    size_t size;
    Buffers(R* result, size_t size, int64_t threads, int64_t B) : own(std::max<int64_t>(1, std::min(threads, B))), result(result), size(size) {}
    R* of(int64_t thread) {
        if (!result) return nullptr;
        if (thread) own[thread].assign(size, R(0));
        return thread ? own[thread].data() : result;
    }
    void sum() {
        for (auto& buffer : own)
            if (!buffer.empty()) axpy(int64_t(size), buffer.data(), result);
    }
};

}  // namespace
