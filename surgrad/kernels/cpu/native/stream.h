// One layer of neurons driven by a given current: no connection, so neurons do not meet and memory traffic is all that counts.
// A tile of neurons goes through time with its state in the cache, reading and writing the caller's arrays in place.
#pragma once
#include "network_run.h"

namespace {

struct Tile { int64_t b0, nb, n0, n; };  // samples [b0, b0 + nb), neurons [n0, n0 + n); nb > 1 only with whole rows

struct Stream {
    static constexpr int64_t SHARE = 400000;  // neurons x steps that are worth another thread: half a millisecond there and back
    static constexpr size_t LARGE = 1 << 25;  // bytes
    static constexpr int64_t MOST = 4096;  // neurons of a tile: its state and a block of surrogates fit the second-level cache
    const Run& run;
    const Layer& y;
    const LayerDesc& d;
    const NetworkDesc& net;
    explicit Stream(const Run& run) : run(run), y(run.layers[0]), d(y.d), net(run.net) {}

    static bool fits(const Run& run) {
        const Layer& y = run.layers[0];
        return run.layers.size() == 1 && y.d.current && !y.d.is_readout && !y.rec.exists && !y.padded() && !(y.d.g_counts && y.d.g_out) && !y.d.g_s_last;
    }
    std::vector<Tile> tiles() const {
        std::vector<Tile> all;
        int64_t share = (net.B + net.threads - 1) / net.threads;
        int64_t rows = std::max<int64_t>(1, std::min(share, MOST / y.n));
        for (int64_t b = 0; b < net.B; b += rows)
            for (int64_t n = 0; n < y.n; n += MOST) all.push_back({b, std::min(rows, net.B - b), n, std::min(MOST, y.n - n)});
        return all;
    }
    template <class F>
    void in_parallel(F f) const {
        std::vector<Tile> all = tiles();
        const int64_t worth = std::max<int64_t>(1, net.T * net.B * y.n / SHARE);
        const int64_t sums = d.trained_tau ? (net.B + run.G - 1) / run.G : (int64_t)all.size();  // the caller has made room for so many
        const int64_t parts = std::min({net.threads, (int64_t)all.size(), worth, sums});
        // which part takes which tile is fixed, so that sums over tiles are the same in every run
        auto work = [&](int64_t part) {
            FlushDenormals scope;
            for (size_t k = part; k < all.size(); k += parts) f(all[k], part);
        };
        share(parts, work);
    }
    // arrays that large leave the cache before they are read again
    bool large(const float* p) const { return (uintptr_t)p % 64 == 0 && net.T * net.B * y.n * sizeof(float) > LARGE; }
    template <class F>
    static void write(int64_t n, float* to, F value) {
        for (int64_t k = 0; k < n; k += LANES) store_past_cache(to + k, value(k));
    }
    Row row(const Tile& tile) const { return {d.a + tile.n0, d.b + tile.n0, y.row.c + tile.n0, tile.n}; }
    int64_t at(int64_t t, int64_t b, const Tile& tile) const { return (t * net.B + b) * y.n + tile.n0; }
    Bits* bits(int64_t t, int64_t b, const Tile& tile) const { return (Bits*)(d.bits + (b * net.T + t) * y.words) + tile.n0 / LANES; }
    float* checkpoint(int64_t block, int64_t b, const Tile& tile) const {
        return d.checkpoints + (block * net.B + b) * 2 * y.places + tile.n0;
    }

    void forward(const Tile& tile) const {
        const int64_t n = tile.n, bytes = n * sizeof(float);
        Scratch scratch(2 * tile.nb * n + n + 8 * PADDING);
        float *i = scratch.take(tile.nb * n), *u = scratch.take(tile.nb * n), *noise = scratch.take(n + 4 * LANES);
        auto copy = [&](float* to, const float* from, float otherwise) {
            if (from) std::memcpy(to, from, bytes);
            else std::fill_n(to, n, otherwise);
        };
        for (int64_t g = 0; g < tile.nb; g++) {
            int64_t first = (tile.b0 + g) * y.places + tile.n0;
            copy(i + g * n, d.i_first ? d.i_first + first : nullptr, 0.0f);
            copy(u + g * n, d.u_first ? d.u_first + first : nullptr, 0.0f);
            if (d.counts) std::memset(d.counts + first, 0, bytes);
        }
        const Row constants = row(tile);
        const bool past_cache = large(d.out);
        const Interrupted interrupted;
        for (int64_t t = 0; t < net.T; t++)
            for (int64_t g = 0; g < tile.nb; g++) {
                if (interrupted(n)) return;
                const int64_t b = tile.b0 + g, here = at(t, b, tile);
                float *ig = i + g * n, *ug = u + g * n;
                if (d.checkpoints && t % run.S == 0) {
                    float* to = checkpoint(t / run.S, b, tile);
                    std::memcpy(to, ig, bytes);
                    std::memcpy(to + y.places, ug, bytes);
                }
                if (d.membranes) std::memcpy(d.membranes + here, ug, bytes);
                if (d.noise != STEP)
                    draw_thresholds(d.noise, d.noise_p, net.seed, net.draw, d.index, (uint32_t)net.ids[b], net.first_step + t, tile.n0, n,
                                    ug, noise);
                if (tile.n0 + n == y.n) d.bits[(b * net.T + t + 1) * y.words - 1] = 0;
                Bits* fired = bits(t, b, tile);
                forward_rows[d.reset](constants, d.current + here, d.noise == STEP ? nullptr : noise, ig, ug, fired);
                if (d.out && past_cache) write(n, d.out + here, [&](int64_t k) { return zero_or_one(fired[k / LANES]); });
                else if (d.out) expand(fired, n, d.out + here);
                if (d.counts) {
                    float* counts = d.counts + b * y.places + tile.n0;
                    for (int64_t k = 0; k < n; k += LANES) store(counts + k, load(counts + k) + zero_or_one(fired[k / LANES]));
                }
            }
        for (int64_t g = 0; g < tile.nb; g++) {
            int64_t last = (tile.b0 + g) * y.places + tile.n0;
            if (d.i_last) std::memcpy(d.i_last + last, i + g * n, bytes);
            if (d.u_last) std::memcpy(d.u_last + last, u + g * n, bytes);
        }
    }

    void backward(const Tile& tile, int64_t thread) const {
        const int64_t n = tile.n, S = run.S, size = tile.nb * n, bytes = n * sizeof(float);
        const bool states = d.diff_reset || d.trained_tau;
        Scratch scratch((S * (states ? 3 : 1) + 5) * (size + PADDING));
        float *h = scratch.take(S * size), *keep_u = states ? scratch.take(S * size) : nullptr, *keep_i = states ? scratch.take(S * size) : nullptr;
        float *i = scratch.take(size), *u = scratch.take(size), *lu = scratch.take(size), *li = scratch.take(size), *dI = scratch.take(n);
        for (int64_t g = 0; g < tile.nb; g++) {
            const int64_t here = (tile.b0 + g) * y.places + tile.n0;
            last_gradient(d.g_u_last, here, lu + g * n, n);
            last_gradient(d.g_i_last, here, li + g * n, n);
        }
        const Row constants = row(tile);
        const bool past_cache = large(d.g_current);
        const Interrupted interrupted;
        const auto adjoint = adjoint_rows[d.reset][d.diff_reset != 0][d.trained_tau != 0];
        auto partial = [&](float* all) { return all ? all + thread * y.places + tile.n0 : nullptr; };
        for (int64_t block = (net.T - 1) / S; block >= 0; block--) {
            const int64_t t0 = block * S, t1 = std::min(t0 + S, net.T);
            if (net.truncate && t1 < net.T && t1 % net.truncate == 0) {
                std::memset(lu, 0, size * sizeof(float));
                std::memset(li, 0, size * sizeof(float));
            }
            for (int64_t g = 0; g < tile.nb; g++) {
                const float* from = checkpoint(block, tile.b0 + g, tile);
                std::memcpy(i + g * n, from, bytes);
                std::memcpy(u + g * n, from + y.places, bytes);
            }
            for (int64_t t = t0; t < t1; t++)
                for (int64_t g = 0; g < tile.nb; g++) {
                    if (interrupted(n)) return;
                    const int64_t b = tile.b0 + g, k = (t - t0) * size + g * n;
                    replay_rows[d.reset](constants, d.current + at(t, b, tile), bits(t, b, tile), d.surrogate, d.surrogate_p, i + g * n,
                                         u + g * n, h + k, states ? keep_u + k : nullptr, states ? keep_i + k : nullptr);
                }
            for (int64_t t = t1 - 1; t >= t0; t--)
                for (int64_t g = 0; g < tile.nb; g++) {
                    const int64_t b = tile.b0 + g, k = (t - t0) * size + g * n;
                    const float* gs = d.g_out ? d.g_out + t * d.g_out_t + b * d.g_out_b + tile.n0 : d.g_counts + b * y.places + tile.n0;
                    adjoint(constants, {h + k, gs, states ? keep_u + k : nullptr, states ? keep_i + k : nullptr, bits(t, b, tile), lu + g * n, li + g * n,
                                        d.g_current && !past_cache ? d.g_current + at(t, b, tile) : dI, partial(d.g_a), partial(d.g_b),
                                        d.unit_gain ? -1.0f : 0.0f});
                    if (d.g_current && past_cache) write(n, d.g_current + at(t, b, tile), [&](int64_t k) { return load(dI + k); });
                }
        }
        for (int64_t g = 0; g < tile.nb; g++) {
            const int64_t here = (tile.b0 + g) * y.places + tile.n0;
            first_gradient(d.g_u_first, here, lu + g * n, n);
            first_gradient(d.g_i_first, here, li + g * n, n);
        }
    }
};

}  // namespace
