// A network as the caller describes it, the memory and the threads that it runs on.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "connection.h"
#include "neuron.h"
#include "parallel.h"

extern "C" {
struct LayerDesc {
    ConnectionDesc feedforward, recurrent;
    int64_t channels, positions, stride;  // n = positions * channels neurons, positions * stride places
    int64_t is_readout, reset, diff_reset, surrogate, noise, unit_gain, index;
    float surrogate_p[2], noise_p[2];
    float u0;
    int32_t trained_tau;
    const float *a, *b;     // decays (places)
    const float* current;   // (T, B, n) external input, or null
    uint64_t* bits;         // (B, T, words) spikes
    float* checkpoints;     // (blocks, B, 2, places) i, u at the start of each block, or null
    float* counts;          // (B, places) or null
    float* out;             // (T, B, n): spikes, or y of a readout; or null
    float* membranes;       // (T, B, n) u[t]; or null
    const float *i_first, *u_first;  // (B, places) or null
    const uint64_t* bits_before;     // (B, words) spikes of the step before, or null
    float *i_last, *u_last;          // (B, places) or null
    const float *g_counts, *g_out;   // gradients of counts (B, places) and out (T, B, n), or null
    const float *g_i_last, *g_u_last, *g_s_last;  // gradients of the state after the last step, (B, places) or null
    float *g_i_first, *g_u_first, *g_first;       // of the state before the first step and of I[0], (B, places) or null
    int64_t g_out_t, g_out_b;        // strides of g_out in floats; 0 where it is the same for every step or sample
    float* g_current;                // (T, B, n) or null
    float *g_feedforward, *g_recurrent;  // (threads, weights), zeroed
    float *g_a, *g_b;                    // (threads, places), zeroed
};
struct NetworkDesc {
    int64_t nb_layers, T, B, delay, block, group, threads, first_step, truncate;
    int64_t in_words;
    const uint64_t* input;         // (B, T, in_words) bits, or null with an external current
    const uint64_t* input_before;  // (B, in_words) or null
    const int64_t* ids;            // (B,)
    uint32_t seed, draw;
    float dense_above;             // fraction of active units above which products take the dense path
    LayerDesc* layers;
};
}

namespace {

// Scratch memory is kept between calls: fresh pages are slow.
class Scratch {
  public:
    explicit Scratch(size_t floats) {
        std::lock_guard<std::mutex> lock(mutex());
        auto fits = [=](const auto& kept) { return kept->size >= floats; };
        auto found = std::find_if(pool().begin(), pool().end(), fits);
        if (found == pool().end()) {
            mine = std::make_unique<Memory>(floats);
        } else {
            mine = std::move(*found);
            pool().erase(found);
        }
    }
    ~Scratch() {
        std::lock_guard<std::mutex> lock(mutex());
        pool().insert(pool().begin(), std::move(mine));
        if (pool().size() > 16) pool().pop_back();
    }
    float* take(size_t floats) {  // aligned, not cleared
        float* p = mine->data + used;
        used += (floats + PADDING - 1) / PADDING * PADDING;
        if (used > mine->size) std::abort();
        return p;
    }

  private:
    struct Memory {
        float* data;
        size_t size;
        static constexpr size_t HUGE_PAGE = 1 << 21;
        explicit Memory(size_t floats) : size(floats) {
            size_t bytes = (floats * sizeof(float) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
            data = (float*)::operator new(bytes, std::align_val_t(HUGE_PAGE));
#if defined(__linux__)
            madvise(data, bytes, MADV_HUGEPAGE);
#endif
        }
        ~Memory() { ::operator delete(data, std::align_val_t(HUGE_PAGE)); }
        Memory(const Memory&) = delete;
    };
    static std::mutex& mutex() { static std::mutex m; return m; }
    static std::vector<std::unique_ptr<Memory>>& pool() { static std::vector<std::unique_ptr<Memory>> kept; return kept; }
    std::unique_ptr<Memory> mine;
    size_t used = 0;
};

// Denormals cost a hundred cycles each and decaying traces make many: flush them to zero in this scope.
struct FlushDenormals {
#if defined(__x86_64__)
    unsigned saved = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(saved | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved); }
#elif defined(__aarch64__)
    uint64_t saved;
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved));
        asm volatile("msr fpcr, %0" : : "r"(saved | 1 << 24));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved)); }
#endif
};

struct Layer {
    const LayerDesc& d;
    Connection ff, rec;
    int64_t n, places, words;
    std::vector<float> c;
    Row row;
    explicit Layer(const LayerDesc& d)
        : d(d), ff(d.feedforward), rec(d.recurrent), n(d.positions * d.channels), places(d.positions * d.stride),
          words((places + 63) / 64), c(places) {
        for (int64_t k = 0; k < places; k++) c[k] = d.unit_gain ? 1.0f - d.b[k] : 1.0f;
        row = {d.a, d.b, c.data(), places};
    }
    // About as many floats as a step of a sample takes, recurrent spikes and their adjoint included
    int64_t work() const { return places + (rec.exists ? rec.weights() * d.positions / 16 : 0); }
    bool padded() const { return d.channels != d.stride; }
    // copy between (n) unpadded and (places) padded rows
    void pad(const float* from, float* to) const {
        if (!padded()) { std::memcpy(to, from, n * sizeof(float)); return; }
        for (int64_t x = 0; x < d.positions; x++) {
            std::memcpy(to + x * d.stride, from + x * d.channels, d.channels * sizeof(float));
            std::memset(to + x * d.stride + d.channels, 0, (d.stride - d.channels) * sizeof(float));
        }
    }
    void unpad(const float* from, float* to) const {
        for (int64_t x = 0; x < d.positions; x++) std::memcpy(to + x * d.channels, from + x * d.stride, d.channels * sizeof(float));
    }
};

struct Run {
    const NetworkDesc& net;
    std::vector<Layer> layers;
    int64_t S, G, places = 0, halo = 0, in_places = 0, events = 0;
    explicit Run(const NetworkDesc& net) : net(net), S(net.block), G(net.group) {
        for (int64_t l = 0; l < net.nb_layers; l++) {
            layers.emplace_back(net.layers[l]);
            const Layer& y = layers.back();
            places = std::max(places, y.places);
            if (y.ff.exists) in_places = std::max(in_places, y.ff.in_units());
            if (y.rec.exists && !y.rec.single()) halo = std::max(halo, (y.rec.width + y.rec.kernel_w) * y.rec.stride);
        }
        events = std::max({places, in_places, S * G});
    }
    // spikes below layer l at step t of sample b; null if none
    const Bits* below(int64_t l, int64_t b, int64_t t) const {
        int64_t w = l ? layers[l - 1].words : net.in_words;
        const uint64_t* now = l ? layers[l - 1].d.bits : net.input;
        const uint64_t* before = l ? layers[l - 1].d.bits_before : net.input_before;
        if (t >= 0) return (const Bits*)(now + (b * net.T + t) * w);
        return before ? (const Bits*)(before + b * w) : nullptr;
    }
    const Bits* own(int64_t l, int64_t b, int64_t t) const { return below(l + 1, b, t); }
    int64_t below_words(int64_t l) const { return l ? layers[l - 1].words : net.in_words; }

    template <class F>
    void in_parallel(F f) const {
        int64_t groups = (net.B + G - 1) / G, n = std::min(net.threads, groups);
        auto work = [&](int64_t k) {
            FlushDenormals scope;
            for (int64_t g = groups * k / n; g < groups * (k + 1) / n; g++) f(k, g * G, std::min(G, net.B - g * G));
        };
        share(n, work);
    }
};

int64_t decode(const Bits* bits, int64_t words, int32_t* events) {
    if (!bits) return 0;
    const uint64_t* w = (const uint64_t*)bits;
    int64_t count = 0;
    for (int64_t k = 0; k < words; k++)
        for (uint64_t left = w[k]; left; left &= left - 1) events[count++] = k * 64 + __builtin_ctzll(left);
    return count;
}
// 64 x 64 bits, bit c of word r to bit r of word c
void transpose(uint64_t* w) {
    uint64_t mask = 0x00000000ffffffffull;
    for (int64_t half = 32; half; half /= 2, mask ^= mask << half)
        for (int64_t r = 0; r < 64; r = (r + half + 1) & ~half) {
            uint64_t changed = ((w[r] >> half) ^ w[r + half]) & mask;
            w[r] ^= changed << half, w[r + half] ^= changed;
        }
}
int64_t count_bits(const Bits* bits, int64_t words) {
    if (!bits) return 0;
    const uint64_t* w = (const uint64_t*)bits;
    int64_t count = 0;
    for (int64_t k = 0; k < words; k++) count += __builtin_popcountll(w[k]);
    return count;
}
void expand(const Bits* bits, int64_t n, float* out) {  // writes multiples of LANES
    for (int64_t k = 0; k < n; k += LANES) store(out + k, bits ? zero_or_one(bits[k / LANES]) : vf{});
}

using ForwardRow = void (*)(const Row&, const float*, const float*, float*, float*, Bits*);
using ReplayRow = void (*)(const Row&, const float*, const Bits*, int, const float*, float*, float*, float*, float*, float*);
using Adjoint = void (*)(const Row&, const AdjointRow&);
const ForwardRow forward_rows[] = {forward_row<0>, forward_row<1>, forward_row<2>, forward_row<3>};
const ReplayRow replay_rows[] = {replay_row<0>, replay_row<1>, replay_row<2>, replay_row<3>};
const Adjoint adjoint_rows[4][2][2] = {
    {{adjoint_row<0, false, false>, adjoint_row<0, false, true>}, {adjoint_row<0, true, false>, adjoint_row<0, true, true>}},
    {{adjoint_row<1, false, false>, adjoint_row<1, false, true>}, {adjoint_row<1, true, false>, adjoint_row<1, true, true>}},
    {{adjoint_row<2, false, false>, adjoint_row<2, false, true>}, {adjoint_row<2, true, false>, adjoint_row<2, true, true>}},
    {{adjoint_row<3, false, false>, adjoint_row<3, false, true>}, {adjoint_row<3, true, false>, adjoint_row<3, true, true>}}};

void initial_state(const Layer& y, int64_t b0, int64_t nb, float* i, float* u) {
    for (int64_t g = 0; g < nb; g++) {
        int64_t size = y.places * sizeof(float);
        if (y.d.i_first) std::memcpy(i + g * y.places, y.d.i_first + (b0 + g) * y.places, size);
        else std::memset(i + g * y.places, 0, size);
        if (y.d.u_first) std::memcpy(u + g * y.places, y.d.u_first + (b0 + g) * y.places, size);
        else std::fill_n(u + g * y.places, y.places, y.d.is_readout ? y.d.u0 : 0.0f);
    }
}
// Adjoint of n neurons of sample b: what the state after the last step brings, and what reaches the one before the first
void last_gradient(const float* all, int64_t at, float* to, int64_t n) {
    if (all) std::memcpy(to, all + at, n * sizeof(float));
    else std::memset(to, 0, n * sizeof(float));
}
void first_gradient(float* all, int64_t at, const float* from, int64_t n) {
    if (all) std::memcpy(all + at, from, n * sizeof(float));
}
void keep_checkpoint(const Layer& y, const NetworkDesc& net, int64_t block, int64_t b0, int64_t nb, const float* i, const float* u) {
    if (!y.d.checkpoints) return;
    for (int64_t g = 0; g < nb; g++) {
        float* to = y.d.checkpoints + (block * net.B + b0 + g) * 2 * y.places;
        std::memcpy(to, i + g * y.places, y.places * sizeof(float));
        std::memcpy(to + y.places, u + g * y.places, y.places * sizeof(float));
    }
}

}  // namespace
