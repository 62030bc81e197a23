// The network over time on the CPU: forward and adjoint, fused over layers and steps.
//
// Threads take samples, not time: a small group of samples walks through all layers and all steps while its state stays in the
// cache. Time goes in blocks of S steps. The forward pass keeps spikes as bits and (i, u) at the start of each block; the backward
// pass walks the blocks in reverse, computes the membranes of a block again from the known spikes, and runs the adjoint.
#include "identity.h"
#include "network_run.h"
#include "stream.h"

namespace {

// Input currents of one layer for the steps [t0, t1) of a group: (steps, group, places)
struct Currents {
    const Run& run;
    int32_t* events;
    float* dense;  // (S, in_places) spikes as floats
    Interrupted interrupted;
    Currents(const Run& run, Scratch& scratch)
        : run(run), events((int32_t*)scratch.take(run.events + 64)), dense(scratch.take(run.S * (run.in_places + PADDING))) {}
    static size_t floats(const Run& run) { return run.events + 64 + run.S * (run.in_places + PADDING) + 3 * PADDING; }

    void fill(int64_t l, int64_t b0, int64_t nb, int64_t t0, int64_t t1, float* I) {
        const Layer& y = run.layers[l];
        const NetworkDesc& net = run.net;
        if (y.d.current) {
            for (int64_t t = t0; t < t1; t++)
                for (int64_t g = 0; g < nb; g++)
                    y.pad(y.d.current + (t * net.B + b0 + g) * y.n, I + ((t - t0) * run.G + g) * y.places);
            return;
        }
        std::memset(I, 0, (t1 - t0) * run.G * y.places * sizeof(float));
        int64_t units = y.ff.in_units(), words = run.below_words(l);
        for (int64_t g = 0; g < nb; g++) {
            if (interrupted(units * y.n / 8)) return;
            int64_t active = 0;
            for (int64_t t = t0; t < t1; t++) active += count_bits(run.below(l, b0 + g, t - net.delay), words);
            if (active > net.dense_above * units * (t1 - t0)) {
                int64_t lds = (units + PADDING - 1) / PADDING * PADDING;
                for (int64_t t = t0; t < t1; t++) expand(run.below(l, b0 + g, t - net.delay), units, dense + (t - t0) * lds);
                y.ff.dense_forward(t1 - t0, dense, lds, I + g * y.places, run.G * y.places);
            } else {
                for (int64_t t = t0; t < t1; t++)
                    y.ff.gather(events, decode(run.below(l, b0 + g, t - net.delay), words, events), I + ((t - t0) * run.G + g) * y.places);
            }
        }
    }
    void recur(int64_t l, int64_t b, int64_t t, float* I) {
        const Layer& y = run.layers[l];
        y.rec.gather(events, decode(run.own(l, b, t - 1), y.words, events), I);
    }
};

void forward_group(const Run& run, int64_t b0, int64_t nb) {
    const NetworkDesc& net = run.net;
    const int64_t S = run.S, G = run.G, L = run.layers.size();
    Scratch scratch(Currents::floats(run) + S * G * run.places + 2 * L * G * (run.places + PADDING) + 4 * (run.places + 64));
    Currents currents(run, scratch);
    float* I = scratch.take(S * G * run.places);
    float* plain = scratch.take(run.places + 64);
    float* threshold = scratch.take(run.places + 64);
    Interrupted interrupted;
    std::vector<float*> i(L), u(L);
    for (int64_t l = 0; l < L; l++) {
        i[l] = scratch.take(G * run.layers[l].places), u[l] = scratch.take(G * run.layers[l].places);
        initial_state(run.layers[l], b0, nb, i[l], u[l]);
        if (run.layers[l].d.counts) std::memset(run.layers[l].d.counts + b0 * run.layers[l].places, 0, nb * run.layers[l].places * 4);
    }
    for (int64_t t0 = 0; t0 < net.T; t0 += S) {
        int64_t t1 = std::min(t0 + S, net.T);
        for (int64_t l = 0; l < L; l++) {
            const Layer& y = run.layers[l];
            const LayerDesc& d = y.d;
            keep_checkpoint(y, net, t0 / S, b0, nb, i[l], u[l]);
            currents.fill(l, b0, nb, t0, t1, I);
            for (int64_t t = t0; t < t1; t++)
                for (int64_t g = 0; g < nb; g++) {
                    if (interrupted(y.work())) return;
                    int64_t b = b0 + g;
                    float* In = I + ((t - t0) * G + g) * y.places;
                    float *ig = i[l] + g * y.places, *ug = u[l] + g * y.places;
                    int64_t at = (t * net.B + b) * y.n;
                    if (d.is_readout) {
                        for (int64_t n = 0; n < y.places; n += LANES) {
                            vf in = load(ig + n);
                            store(ug + n, load(d.b + n) * load(ug + n) + load(y.row.c + n) * in);
                            store(ig + n, load(d.a + n) * in + load(In + n));
                        }
                        y.unpad(ug, d.out + at);
                        continue;
                    }
                    if (y.rec.exists) currents.recur(l, b, t, In);
                    if (d.membranes) y.unpad(ug, d.membranes + at);
                    const float* th = nullptr;
                    if (d.noise != STEP) {
                        draw_thresholds(d.noise, d.noise_p, net.seed, net.draw, d.index, (uint32_t)net.ids[b], net.first_step + t, 0, y.n,
                                        y.padded() ? nullptr : ug, y.padded() ? plain : threshold);
                        if (y.padded()) {
                            y.pad(plain, threshold);
                            for (int64_t x = 0; x < d.positions; x++)
                                std::fill(threshold + x * d.stride + d.channels, threshold + (x + 1) * d.stride, 1e30f);
                        }
                        th = threshold;
                    }
                    uint64_t* bits = d.bits + (b * net.T + t) * y.words;
                    bits[y.words - 1] = 0;
                    forward_rows[d.reset](y.row, In, th, ig, ug, (Bits*)bits);
                    if (d.counts)
                        for (int64_t n = 0; n < y.places; n += LANES) {
                            float* c = d.counts + b * y.places + n;
                            Bits s = ((Bits*)bits)[n / LANES];
                            if (s) store(c, load(c) + zero_or_one(s));
                        }
                    if (d.out) {
                        expand((Bits*)bits, y.places, plain);
                        y.unpad(plain, d.out + at);
                    }
                }
        }
    }
    for (int64_t l = 0; l < L; l++) {
        const Layer& y = run.layers[l];
        if (y.d.i_last) std::memcpy(y.d.i_last + b0 * y.places, i[l], nb * y.places * sizeof(float));
        if (y.d.u_last) std::memcpy(y.d.u_last + b0 * y.places, u[l], nb * y.places * sizeof(float));
    }
}

// The adjoint of one group of samples, block by block from the last, layer by layer from the top.
struct Backward {
    static constexpr size_t FEW = 6;  // one neuron of so many, or fewer
    const Run& run;
    const NetworkDesc& net;
    const int64_t S, G, thread, b0, nb;
    Scratch scratch;
    Currents currents;
    Interrupted interrupted;
    float *I, *h, *keep_u, *keep_i, *dI, *gs, *g_in, *i, *u, *halo;
    std::vector<float*> lu, li, carry;
    std::vector<int32_t> active;  // neurons of the block whose surrogate is not 0, row by row, and where each row begins
    std::vector<int64_t> begin;

    static size_t floats(const Run& run) {
        int64_t P = run.places + PADDING, L = run.layers.size();
        return Currents::floats(run) + (7 * run.S + 1) * run.G * P + (2 + 3 * L) * run.G * P + run.halo + 64 * PADDING;
    }
    Backward(const Run& run, int64_t thread, int64_t b0, int64_t nb)
        : run(run), net(run.net), S(run.S), G(run.G), thread(thread), b0(b0), nb(nb), scratch(floats(run)), currents(run, scratch) {
        int64_t row = G * run.places;
        for (float** p : {&I, &h, &keep_u, &keep_i, &gs, &g_in}) *p = scratch.take(S * row);
        dI = scratch.take((S + 1) * row);
        i = scratch.take(row), u = scratch.take(row), halo = scratch.take(run.halo);
        for (const Layer& y : run.layers) {
            for (auto* v : {&lu, &li, &carry}) v->push_back(scratch.take(G * y.places));
            std::memset(carry.back(), 0, G * y.places * sizeof(float));
            last_gradient(y.d.g_u_last, b0 * y.places, lu.back(), nb * y.places);
            last_gradient(y.d.g_i_last, b0 * y.places, li.back(), nb * y.places);
        }
    }
    void go() {
        int64_t L = run.layers.size();
        for (int64_t block = (net.T - 1) / S; block >= 0; block--) {
            int64_t t0 = block * S, t1 = std::min(t0 + S, net.T);
            bool cut = net.truncate && t1 < net.T && t1 % net.truncate == 0;
            for (int64_t l = L - 1; l >= 0; l--) {
                if (interrupted(0)) return;
                const Layer& y = run.layers[l];
                int64_t row = G * y.places;
                if (cut)
                    for (auto* v : {&lu, &li, &carry}) std::memset((*v)[l], 0, row * sizeof(float));
                incoming(l, t0, t1, l == L - 1);
                if (y.d.is_readout) readout(l, t0, t1);
                else spiking(l, block, t0, t1);
                std::memcpy(dI + (t1 - t0) * row, carry[l], row * sizeof(float));
                weight_gradients(l, t0, t1);
                if (l > 0 && !compact(l - 1)) {  // gradient of the spikes below: (W^T dI)[t + d]
                    std::memset(g_in, 0, (t1 - t0) * G * run.layers[l - 1].places * sizeof(float));
                    y.ff.dense_adjoint((t1 - t0) * G, dI + net.delay * row, y.places, g_in, run.layers[l - 1].places);
                }
                std::memcpy(carry[l], dI, row * sizeof(float));
            }
        }
        for (int64_t l = 0; l < L; l++) {
            const Layer& y = run.layers[l];
            first_gradient(y.d.g_u_first, b0 * y.places, lu[l], nb * y.places);
            first_gradient(y.d.g_i_first, b0 * y.places, li[l], nb * y.places);
            first_gradient(y.d.g_first, b0 * y.places, carry[l], nb * y.places);
        }
    }
    // gs[t] = what reaches s[t] (or y[t]) from above and from the loss
    void incoming(int64_t l, int64_t t0, int64_t t1, bool top) {
        const Layer& y = run.layers[l];
        int64_t row = G * y.places;
        if (!top && compact(l)) std::memset(gs, 0, (t1 - t0) * row * sizeof(float));  // `spiking` adds what comes from above
        else if (!top) std::swap(gs, g_in);
        for (int64_t t = t0; t < t1; t++)
            for (int64_t g = 0; g < nb; g++) {
                float* to = gs + (t - t0) * row + g * y.places;
                const float* loss = y.d.g_out ? y.d.g_out + t * y.d.g_out_t + (b0 + g) * y.d.g_out_b : nullptr;
                if (top && loss) y.pad(loss, to);
                else if (top) std::memset(to, 0, y.places * sizeof(float));
                else if (loss)
                    for (int64_t x = 0; x < y.d.positions; x++)
                        for (int64_t c = 0; c < y.d.channels; c++) to[x * y.d.stride + c] += loss[x * y.d.channels + c];
                for (const float* all : {y.d.g_counts, t == net.T - 1 ? y.d.g_s_last : nullptr}) {
                    if (!all) continue;
                    const float* from = all + (b0 + g) * y.places;
                    for (int64_t n = 0; n < y.places; n += LANES) store(to + n, load(to + n) + load(from + n));
                }
            }
    }
    void load_checkpoint(const Layer& y, int64_t block) {
        for (int64_t g = 0; g < nb; g++) {
            const float* from = y.d.checkpoints + (block * net.B + b0 + g) * 2 * y.places;
            std::memcpy(i + g * y.places, from, y.places * sizeof(float));
            std::memcpy(u + g * y.places, from + y.places, y.places * sizeof(float));
        }
    }
    float* partial(float* all, int64_t size) const { return all ? all + thread * size : nullptr; }

    void readout(int64_t l, int64_t t0, int64_t t1) {
        const Layer& y = run.layers[l];
        int64_t row = G * y.places;
        float *ga = partial(y.d.g_a, y.places), *gb = partial(y.d.g_b, y.places);
        if (y.d.trained_tau) {
            load_checkpoint(y, t0 / S);
            currents.fill(l, b0, nb, t0, t1, I);
            for (int64_t t = t0; t < t1; t++)
                for (int64_t k = 0; k < nb * y.places; k++) {
                    int64_t n = k % y.places, at = (t - t0) * row + k;
                    keep_i[at] = i[k], keep_u[at] = u[k];
                    u[k] = y.d.b[n] * u[k] + y.c[n] * i[k];
                    i[k] = y.d.a[n] * i[k] + I[at];
                }
        }
        for (int64_t t = t1 - 1; t >= t0; t--)
            for (int64_t g = 0; g < nb; g++) {
                if (interrupted(y.work())) return;
                for (int64_t n = 0; n < y.places; n += LANES) {
                    int64_t k = g * y.places + n, at = (t - t0) * row + k;
                    vf mu = load(lu[l] + k) + load(gs + at), mi = load(li[l] + k);  // y[t] = u[t+1]
                    if (y.d.trained_tau) {
                        vf i_t = load(keep_i + at), u_t = load(keep_u + at);
                        store(ga + n, load(ga + n) + mi * i_t);
                        store(gb + n, load(gb + n) + mu * (u_t - (y.d.unit_gain ? i_t : vf{})));
                    }
                    store(dI + at, mi);
                    store(li[l] + k, load(y.d.a + n) * mi + load(y.row.c + n) * mu);
                    store(lu[l] + k, load(y.d.b + n) * mu);
                }
                if (y.d.g_current) y.unpad(dI + (t - t0) * row + g * y.places, y.d.g_current + (t * net.B + b0 + g) * y.n);
            }
    }
    void spiking(int64_t l, int64_t block, int64_t t0, int64_t t1) {
        const Layer& y = run.layers[l];
        const LayerDesc& d = y.d;
        int64_t row = G * y.places;
        bool states = d.diff_reset || d.trained_tau;
        load_checkpoint(y, block);
        currents.fill(l, b0, nb, t0, t1, I);
        for (int64_t t = t0; t < t1; t++)
            for (int64_t g = 0; g < nb; g++) {
                if (interrupted(y.work())) return;
                int64_t at = (t - t0) * row + g * y.places;
                if (y.rec.exists) currents.recur(l, b0 + g, t, I + at);
                replay_rows[d.reset](y.row, I + at, run.own(l, b0 + g, t), d.surrogate, d.surrogate_p, i + g * y.places, u + g * y.places,
                                     h + at, states ? keep_u + at : nullptr, states ? keep_i + at : nullptr);
            }
        const bool few = compact(l) && find_active(y, t0, t1);
        if (compact(l) && l + 1 < (int64_t)run.layers.size()) {
            const Layer& above = run.layers[l + 1];
            const float* from = dI + net.delay * G * above.places;
            if (!few) above.ff.dense_adjoint((t1 - t0) * G, from, above.places, gs, y.places);
            else
                for (int64_t r = 0; r < (t1 - t0) * G; r++)
                    above.ff.adjoint_of(&active[begin[r]], begin[r + 1] - begin[r], from + r * above.places, gs + r * y.places);
        }
        auto adjoint = adjoint_rows[d.reset][d.diff_reset != 0][d.trained_tau != 0];
        for (int64_t t = t1 - 1; t >= t0; t--) {
            if (interrupted(nb * y.work())) return;
            if (y.rec.exists) {  // s[t] enters I[t+1]
                const float* next = t + 1 < t1 ? dI + (t + 1 - t0) * row : carry[l];
                if (few)
                    for (int64_t g = 0, r = (t - t0) * G; g < nb; g++, r++)
                        y.rec.adjoint_of(&active[begin[r]], begin[r + 1] - begin[r], next + g * y.places, gs + r * y.places);
                else if (y.rec.single()) y.rec.dense_adjoint(nb, next, y.places, gs + (t - t0) * row, y.places);
                else
                    for (int64_t g = 0; g < nb; g++) y.rec.recurrent_adjoint(next + g * y.places, gs + (t - t0) * row + g * y.places, halo);
            }
            for (int64_t g = 0; g < nb; g++) {
                int64_t at = (t - t0) * row + g * y.places;
                adjoint(y.row, {h + at, gs + at, keep_u + at, keep_i + at, run.own(l, b0 + g, t), lu[l] + g * y.places,
                                li[l] + g * y.places, dI + at, partial(d.g_a, y.places), partial(d.g_b, y.places),
                                d.unit_gain ? -1.0f : 0.0f});
                if (d.g_current) y.unpad(dI + at, d.g_current + (t * net.B + b0 + g) * y.n);
            }
        }
    }
    // Whether the surrogate of a layer is 0 for most membranes: what reaches such a spike from above need not be known.
    bool compact(int64_t l) const {
        const LayerDesc& d = run.layers[l].d;
        return !d.is_readout && (d.surrogate == ESSER || d.surrogate == SPIKER || d.surrogate == TRUE_GRADIENT);
    }
    // Lists `active`; false if they are so many that dense products cost less.
    bool find_active(const Layer& y, int64_t t0, int64_t t1) {
        const int64_t rows = (t1 - t0) * G;
        const size_t most = rows * y.places / FEW;
        active.clear(), begin.assign(1, 0);
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t n = 0; n < y.places && r % G < nb; n += LANES)
                for (uint32_t left = bits_of(load(h + r * y.places + n) != vf{}); left; left &= left - 1) active.push_back(n + __builtin_ctz(left));
            if (active.size() > most) return false;
            begin.push_back(active.size());
        }
        active.push_back(0);  // so that an empty last row has an address
        return true;
    }
    void weight_gradients(int64_t l, int64_t t0, int64_t t1) {
        const Layer& y = run.layers[l];
        weight_gradient(y.ff, partial(y.d.g_feedforward, y.ff.weights()), y, t0, t1, run.below_words(l),
                        [&](int64_t b, int64_t t) { return run.below(l, b, t - net.delay); });
        weight_gradient(y.rec, partial(y.d.g_recurrent, y.rec.weights()), y, t0, t1, y.words,
                        [&](int64_t b, int64_t t) { return run.own(l, b, t - 1); });
    }
    // dW += (adjoint currents of the block) (spikes of each sample and step)^T
    template <class Spikes>
    void weight_gradient(const Connection& connection, float* gradient, const Layer& y, int64_t t0, int64_t t1, int64_t words, Spikes spikes) {
        if (!gradient) return;
        if (connection.single()) return gradient_by_unit(connection, gradient, y, t0, t1, words, spikes);
        for (int64_t t = t0; t < t1; t++)
            for (int64_t g = 0; g < nb; g++) {
                if (interrupted(y.work())) return;
                connection.scatter(currents.events, decode(spikes(b0 + g, t), words, currents.events), dI + ((t - t0) * G + g) * y.places, gradient);
            }
    }
    // Of a dense connection one presynaptic unit after the other, so that its row of the gradient stays in registers: the
    // samples and steps in which it spiked are a column of the spikes' bits
    template <class Spikes>
    void gradient_by_unit(const Connection& connection, float* gradient, const Layer& y, int64_t t0, int64_t t1, int64_t words, Spikes spikes) {
        const int64_t rows = (t1 - t0) * G, tiles = (rows + 63) / 64;
        std::vector<uint64_t> columns(64 * tiles);
        for (int64_t k = 0; k < words; k++) {
            for (int64_t tile = 0; tile < tiles; tile++) {
                uint64_t bits[64] = {}, any = 0;
                for (int64_t r = 64 * tile; r < std::min(64 * tile + 64, rows); r++)
                    if (const uint64_t* row = r % G < nb ? (const uint64_t*)spikes(b0 + r % G, t0 + r / G) : nullptr) any |= bits[r % 64] = row[k];
                if (any) transpose(bits);
                for (int64_t c = 0; c < 64; c++) columns[c * tiles + tile] = bits[c];
            }
            for (int64_t c = 0; c < 64; c++) {
                int64_t nb_events = decode((const Bits*)&columns[c * tiles], tiles, currents.events);
                if (!nb_events) continue;
                if (interrupted(nb_events * y.places)) return;
                connection.sum_rows(currents.events, nb_events, gradient + (k * 64 + c) * y.places, dI);
            }
        }
    }
};

}  // namespace

extern "C" {

void surgrad_forward(const NetworkDesc* net) {
    Call call;
    Run run(*net);
    if (Stream::fits(run)) return Stream(run).in_parallel([&](const Tile& tile, int64_t) { Stream(run).forward(tile); });
    run.in_parallel([&](int64_t, int64_t b0, int64_t nb) { forward_group(run, b0, nb); });
}
void surgrad_backward(const NetworkDesc* net) {
    Call call;
    Run run(*net);
    if (Stream::fits(run)) return Stream(run).in_parallel([&](const Tile& tile, int64_t thread) { Stream(run).backward(tile, thread); });
    run.in_parallel([&](int64_t thread, int64_t b0, int64_t nb) { Backward(run, thread, b0, nb).go(); });
}

// Spikes to bits (B, T, words). `place` maps a flat unit to its place in the layout (channels last).
void surgrad_pack_events(const int32_t* steps, const int32_t* units, const int64_t* offsets, const int32_t* place, int64_t B, int64_t T,
                         int64_t words, uint64_t* bits) {
    Call call;
    std::memset(bits, 0, B * T * words * sizeof(uint64_t));
    for (int64_t b = 0; b < B; b++)
        for (int64_t e = offsets[b]; e < offsets[b + 1]; e++) {
            int32_t p = place[units[e]];
            bits[(b * T + steps[e]) * words + p / 64] |= 1ull << (p % 64);
        }
}
// From a dense (T, B, n) array of floats; returns 0 if an entry is neither 0 nor 1.
int surgrad_pack_dense(const float* x, const int32_t* place, int64_t B, int64_t T, int64_t n, int64_t words, uint64_t* bits) {
    Call call;
    std::memset(bits, 0, B * T * words * sizeof(uint64_t));
    float strange = 0;
    for (int64_t t = 0; t < T; t++)
        for (int64_t b = 0; b < B; b++) {
            const float* row = x + (t * B + b) * n;
            uint64_t* to = bits + (b * T + t) * words;
            for (int64_t k = 0; k < n; k++) {
                strange += row[k] * (row[k] - 1.0f) != 0.0f;
                if (row[k] != 0.0f) to[place[k] / 64] |= 1ull << (place[k] % 64);
            }
        }
    return strange == 0;
}
// Whether rows of n floats, `stride` apart, are finite: all bits of the exponent are set in inf and NaN alone.
int surgrad_is_finite(const float* x, int64_t rows, int64_t n, int64_t stride) {
    uint32_t largest = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < n; k++) {
            uint32_t bits;
            std::memcpy(&bits, x + r * stride + k, sizeof bits);
            bits &= 0x7fffffffu;
            largest = bits > largest ? bits : largest;
        }
    return largest < 0x7f800000u;
}
int64_t surgrad_layer_size() { return sizeof(LayerDesc); }
int64_t surgrad_network_size() { return sizeof(NetworkDesc); }
}
