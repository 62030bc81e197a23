// The cochlea's stages (Cramer et al. 2020) for a block of channels, each row a channel; equations in the Python module.
//
// Rows are independent and steps follow each other, so several rows run side by side in the registers.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>

#include "identity.h"
#include "interrupt.h"

namespace {

using Complex = std::complex<double>;
constexpr int64_t LANES = 8;   // rows side by side
constexpr int64_t TILE = 64;   // steps
constexpr int DEGREE = 8;      // of exp on one cell: |change of ln v| < .08, so .04^9 / 9! is below rounding

// SplitMix64's finaliser (Steele, Lea & Flood 2014): a bijection of 64 bits that scatters neighbours
uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t channel_key(uint64_t seed, int64_t channel) { return mix(mix(seed) + (channel + 1) * 0xD1342543DE82EF95u); }

double uniform(uint64_t key, int64_t counter) {  // in [0, 1), 53 bits
    return double(int64_t(mix(key + (counter + 1) * 0x9E3779B97F4A7C15u) >> 11)) * (1.0 / 9007199254740992.0);
}

double power(double x, int64_t n) {
    double product = 1;
    for (; n; n >>= 1, x *= x) product = n & 1 ? product * x : product;
    return product;
}

// Largest j with u < P(K >= j), K ~ Binomial(n, p)
int64_t binomial_upper(double u, int64_t n, double p) {
    if (p >= 1) return n;
    double term = power(1 - p, n), odds = p / (1 - p), above = 1 - term;
    int64_t j = 0;
    while (j < n && u < above) {
        j++;
        term *= odds * double(n - j + 1) / double(j);
        above -= term;
    }
    return j;
}

Complex product(Complex a, Complex b) {  // of finite numbers
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

// Coefficients in s = t - 1/2 of exp(log gain) on the cell between y[1] and y[2], t the place between the two: the
// cubic through the four points, then f' = (c1 + 2 c2 s + 3 c3 s^2) f term by term.
void cell_gain(const Complex* y, Complex* f) {
    const Complex c0 = (9. * (y[1] + y[2]) - (y[0] + y[3])) / 16., c1 = (27. * (y[2] - y[1]) - (y[3] - y[0])) / 24.,
                  c2 = (y[0] - y[1] - y[2] + y[3]) / 4., c3 = (y[3] - y[0] - 3. * (y[2] - y[1])) / 6.;
    f[0] = std::exp(c0);
    for (int k = 0; k < DEGREE; k++) {
        Complex sum = product(c1, f[k]);
        if (k > 0) sum += product(2. * c2, f[k - 1]);
        if (k > 1) sum += product(3. * c3, f[k - 2]);
        f[k + 1] = sum * (1. / (k + 1));
    }
}

// exp(table interpolated at every bin) of one channel; bins [first[k], first[k+1]) lie in cell k
void gain(const Complex* table, const int64_t* first, const double* __restrict s, int64_t nb_cells,
          double* __restrict re, double* __restrict im) {
    for (int64_t k = 0; k < nb_cells; k++) {
        if (first[k] == first[k + 1]) continue;
        Complex f[DEGREE + 1];
        cell_gain(table + k, f);
        for (int64_t j = first[k]; j < first[k + 1]; j++) {
            double x = f[DEGREE].real(), y = f[DEGREE].imag();
#pragma GCC unroll 8
            for (int d = DEGREE - 1; d >= 0; d--) x = x * s[j] + f[d].real(), y = y * s[j] + f[d].imag();
            re[j] = x, im[j] = y;
        }
    }
}

}  // namespace

extern "C" {

// Spectra (ceil(channels/2), bins) whose inverse transforms hold the velocity of two channels, real and imaginary part;
// the buffer holds two rows of bins
void cochlea_filter(const Complex* table, int64_t nb_points, const int64_t* first, const double* s,
                    const Complex* spectrum, int64_t channels, int64_t bins, double* buffer, Complex* out) {
    Call call;
    const Interrupted interrupted;
    double *re = buffer, *im = buffer + bins;
    for (int64_t k = 0; k < channels && !interrupted(8 * bins); k++) {
        gain(table + k * nb_points, first, s, nb_points - 3, re, im);
        for (int64_t j = 0; j < bins; j++) {
            const double a = spectrum[j].real(), b = spectrum[j].imag(), x = re[j] * a - im[j] * b;
            im[j] = re[j] * b + im[j] * a, re[j] = x;
        }
        // the real part of a sequence is the transform of the Hermitian part of its spectrum
        Complex* z = out + (k / 2) * bins;
        const auto add = [&](int64_t j, int64_t mirrored) {
            const double x = (re[j] + re[mirrored]) * .5, y = (im[j] - im[mirrored]) * .5;
            z[j] += k % 2 ? Complex(-y, x) : Complex(x, y);
        };
        add(0, 0);
        for (int64_t j = 1; j < bins; j++) add(j, bins - j);
    }
}

void cochlea_hair_cell(const double* x, int64_t channels, int64_t steps, double dt, const double* rest,
                       const double* rates, double* probability) {
    const double a = rates[0], b = rates[1], g = rates[2], y = rates[3], l = rates[4], r = rates[5], x_r = rates[6],
                 m = rates[7], h = rates[8];
    Call call;
    const Interrupted interrupted;
    for (int64_t k = 0; k < channels; k += LANES) {
        const int64_t lanes = std::min(LANES, channels - k);
        double q[LANES], c[LANES], w[LANES], tile[TILE][LANES] = {};
        std::fill_n(q, LANES, rest[0]), std::fill_n(c, LANES, rest[1]), std::fill_n(w, LANES, rest[2]);
        for (int64_t t0 = 0; t0 < steps && !interrupted(8 * LANES * TILE); t0 += TILE) {
            const int64_t length = std::min(TILE, steps - t0);
            for (int64_t i = 0; i < lanes; i++)
                for (int64_t t = 0; t < length; t++) tile[t][i] = x[(k + i) * steps + t0 + t];
            for (int64_t t = 0; t < length; t++)
                for (int64_t i = 0; i < LANES; i++) {
                    const double drive = tile[t][i] + a;
                    const double eject = (drive > 0 ? g * drive / (drive + b) : 0.) * q[i];
                    const double dq = y * (m > q[i] ? m - q[i] : 0.) - eject + x_r * w[i];
                    const double dc = eject - (l + r) * c[i], dw = r * c[i] - x_r * w[i];
                    q[i] += dt * dq, c[i] += dt * dc, w[i] += dt * dw;
                    const double released = h * c[i] * dt, above = released < 0 ? 0. : released;
                    tile[t][i] = above > 1 ? 1. : above;
                }
            for (int64_t i = 0; i < lanes; i++)
                for (int64_t t = 0; t < length; t++) probability[(k + i) * steps + t0 + t] = tile[t][i];
        }
    }
}

void cochlea_uniform(uint64_t seed, int64_t channel, int64_t steps, double* out) {
    Call call;
    const Interrupted interrupted;
    for (int64_t t = 0; t < steps && !interrupted(1); t++) out[t] = uniform(channel_key(seed, channel), t);
}

void cochlea_releases(const double* probability, int64_t channels, int64_t steps, uint64_t seed, int64_t first_channel,
                      int64_t nb_sites, int64_t silent_steps, int32_t* count) {
    Call call;
    const Interrupted interrupted;
    for (int64_t k = 0; k < channels; k++) {
        const uint64_t key = channel_key(seed, first_channel + k);
        const double* p = probability + k * steps;
        int32_t* n = count + k * steps;
        int64_t available = nb_sites;
        for (int64_t t = 0; t < steps && !interrupted(8); t++) {
            if (t >= silent_steps) available += n[t - silent_steps];
            const double u = uniform(key, t);
            // P(K >= 1) <= available * p settles most steps without a power
            n[t] = u < double(available) * p[t] ? int32_t(binomial_upper(u, available, p[t])) : 0;
            available -= n[t];
        }
    }
}

void cochlea_bushy_cell(const int32_t* count, int64_t channels, int64_t steps, double dt, double tau_mem,
                        double tau_syn, int64_t refractory_steps, double weight, double threshold, uint8_t* spikes) {
    Call call;
    const Interrupted interrupted;
    const double decay_syn = std::exp(-dt / tau_syn), decay_mem = std::exp(-dt / tau_mem);
    for (int64_t k = 0; k < channels; k++) {
        double current = 0, u = 0;
        int64_t ready = 0;
        for (int64_t t = 0; t < steps && !interrupted(2); t++) {
            current = decay_syn * current + weight * count[k * steps + t];
            u = t < ready ? 0. : decay_mem * u + dt * current;
            const bool spike = u >= threshold;
            spikes[k * steps + t] = spike;
            if (spike) u = 0, ready = t + refractory_steps;
        }
    }
}
}
