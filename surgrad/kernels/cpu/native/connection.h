// Connections between layers: products with spikes are event-driven, products with adjoints are small dense blocks.
//
// Units are laid out channels last, unit = position * stride + channel, with the channel stride padded to PADDING so that
// vectors hold neighbouring channels of one position. A dense connection is a convolution whose kernel covers its whole input,
// so one code serves both.
#pragma once
#include <algorithm>
#include <vector>

#include "simd.h"

// C[r][0:NV*LANES] += sum_k A[r][k] B[k][0:NV*LANES] for R rows: the accumulators stay in registers.
template <int R, int NV>
static void block(const float* A, int64_t lda, int64_t K, const float* B, int64_t ldb, float* C, int64_t ldc) {
    vf acc[R][NV];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) acc[r][v] = load(C + r * ldc + v * LANES);
    for (int64_t k = 0; k < K; k++) {
        vf b[NV];
        for (int v = 0; v < NV; v++) b[v] = load(B + k * ldb + v * LANES);
        for (int r = 0; r < R; r++) {
            vf a = splat(A[r * lda + k]);
            for (int v = 0; v < NV; v++) acc[r][v] = fused(a, b[v], acc[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) store(C + r * ldc + v * LANES, acc[r][v]);
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
template <int NV, int RMAX>
static void panel(int64_t rows, const float* A, int64_t lda, int64_t K, const float* B, int64_t ldb, float* C, int64_t ldc) {
    int64_t r = 0;
    for (; r + RMAX <= rows; r += RMAX) block<RMAX, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
    for (; r + 4 <= rows; r += 4) block<4, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
    for (; r + 2 <= rows; r += 2) block<2, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
    for (; r < rows; r++) block<1, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
}

// C += A B with n a multiple of PADDING; columns outside, so that a strip of B is reused by all rows.
static void multiply_add(int64_t rows, const float* A, int64_t lda, int64_t K, const float* B, int64_t ldb, int64_t n, float* C, int64_t ldc) {
    int64_t j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES) panel<4, 6>(rows, A, lda, K, B + j, ldb, C + j, ldc);
    for (; j + 2 * LANES <= n; j += 2 * LANES) panel<2, 8>(rows, A, lda, K, B + j, ldb, C + j, ldc);
    for (; j < n; j += LANES) panel<1, 12>(rows, A, lda, K, B + j, ldb, C + j, ldc);
}
#else
#if defined(__AVX2__) || defined(__aarch64__)
constexpr int TILE = 6;  // times PADDING sums fill the registers
#else
constexpr int TILE = 3;
#endif
// A few rows, in strips of NV vectors: as many sums side by side as the latency of an addition asks for
template <int R, int NV>
static void few_rows(const float* A, int64_t lda, int64_t K, const float* B, int64_t ldb, int64_t n, float* C, int64_t ldc) {
    int64_t j = 0;
    for (; j + NV * LANES <= n; j += NV * LANES) block<R, NV>(A, lda, K, B + j, ldb, C + j, ldc);
    for (; j < n; j += PADDING) block<R, PADDING / LANES>(A, lda, K, B + j, ldb, C + j, ldc);
}
// C += A B with n a multiple of PADDING; columns outside, so that a strip of B is reused by all rows.
static void multiply_add(int64_t rows, const float* A, int64_t lda, int64_t K, const float* B, int64_t ldb, int64_t n, float* C, int64_t ldc) {
    const int64_t whole = rows / TILE * TILE;
    if (whole)
        for (int64_t j = 0; j < n; j += PADDING)
            for (int64_t r = 0; r < whole; r += TILE) block<TILE, PADDING / LANES>(A + r * lda, lda, K, B + j, ldb, C + r * ldc + j, ldc);
    A += whole * lda, C += whole * ldc;
    switch (rows - whole) {
        case 1: return few_rows<1, 8>(A, lda, K, B, ldb, n, C, ldc);
        case 2: return few_rows<2, 4>(A, lda, K, B, ldb, n, C, ldc);
        case 3: return few_rows<3, 2>(A, lda, K, B, ldb, n, C, ldc);
        case 4: return few_rows<4, 2>(A, lda, K, B, ldb, n, C, ldc);
        case 5: return few_rows<5, 2>(A, lda, K, B, ldb, n, C, ldc);
    }
}
#endif

extern "C" struct ConnectionDesc {
    int64_t exists;
    int64_t in_channels, in_stride, in_height, in_width;
    int64_t channels, stride, height, width;  // of the output; stride is a multiple of PADDING
    int64_t kernel_h, kernel_w, step_h, step_w, pad_h, pad_w;
    const float* forward;  // (kernel_h, kernel_w, in_stride, stride)
    const float* adjoint;  // (kernel_h, kernel_w reordered, stride, in_stride); see adjoint_slot
};

struct Connection : ConnectionDesc {
    struct Pair { int32_t tap, out; };
    std::vector<int32_t> first;     // of the pairs of each input position
    std::vector<Pair> pairs;        // which tap of the kernel links it to which output position
    std::vector<int32_t> position;  // of each input unit

    explicit Connection(const ConnectionDesc& d) : ConnectionDesc(d) {
        if (!exists) return;
        for (int64_t y = 0; y < in_height; y++)
            for (int64_t x = 0; x < in_width; x++) {
                first.push_back(pairs.size());
                for (int64_t oy = 0; oy < height; oy++) {
                    int64_t ky = y + pad_h - oy * step_h;
                    if (ky < 0 || ky >= kernel_h) continue;
                    for (int64_t ox = 0; ox < width; ox++) {
                        int64_t kx = x + pad_w - ox * step_w;
                        if (kx < 0 || kx >= kernel_w) continue;
                        pairs.push_back({(int32_t)(ky * kernel_w + kx), (int32_t)(oy * width + ox)});
                    }
                }
            }
        first.push_back(pairs.size());
        position.resize(in_units());
        for (int64_t m = 0; m < in_units(); m++) position[m] = m / in_stride;
    }
    int64_t in_units() const { return in_height * in_width * in_stride; }
    int64_t units() const { return height * width * stride; }
    int64_t weights() const { return kernel_h * kernel_w * in_stride * stride; }
    bool single() const { return height * width == 1; }

    // Calls f with the places of a row of the weight and of the output that it meets. All it reads is held in locals: what f
    // stores might else change it, for all that the compiler knows.
    template <class F>
    void each_row(const int32_t* events, int64_t nb_events, F f) const {
        const int32_t *const begin = first.data(), *const at = position.data();
        const Pair* const all = pairs.data();
        const int64_t in = in_stride, out = stride;
        for (int64_t e = 0; e < nb_events; e++) {
            const int64_t m = events[e], pos = at[m], c = m - pos * in;
            const Pair* const end = all + begin[pos + 1];
            for (const Pair* p = all + begin[pos]; p < end; p++) f((p->tap * in + c) * out, p->out * out);
        }
    }

    // to += from, PADDING floats
    static void add(float* to, const float* from) {
        for (int64_t k = 0; k < PADDING; k += LANES) store(to + k, load(to + k) + load(from + k));
    }
    // current += W s for the active units `events`
    void gather(const int32_t* events, int64_t nb_events, float* current) const {
        if (single()) sum_rows(events, nb_events, current, forward);
        else add_rows<true>(events, nb_events, const_cast<float*>(forward), current);
    }
    // to[0:stride] += the sum of the rows `events` of from (…, stride)
    void sum_rows(const int32_t* events, int64_t nb_events, float* to, const float* from) const {
        int64_t j = 0;
        for (; j + 4 * PADDING <= stride; j += 4 * PADDING) sum_columns<4>(events, nb_events, to + j, from + j);
        for (; j < stride; j += PADDING) sum_columns<1>(events, nb_events, to + j, from + j);
    }
    template <int N>
    void sum_columns(const int32_t* events, int64_t nb_events, float* to, const float* from) const {
        constexpr int NV = N * PADDING / LANES;
        vf sum[NV];
        for (int v = 0; v < NV; v++) sum[v] = load(to + v * LANES);
        for (int64_t e = 0; e < nb_events; e++) {
            const float* row = from + events[e] * stride;
            for (int v = 0; v < NV; v++) sum[v] += load(row + v * LANES);
        }
        for (int v = 0; v < NV; v++) store(to + v * LANES, sum[v]);
    }
    // current += W s, and dW += their outer product, of a dense connection for analogue s, most of it 0
    void gather_weighed(const float* s, float* current) const {
        for (int64_t m = 0; m < in_units(); m++)
            if (s[m] != 0.0f) add_weighed(s[m], forward + m * stride, current);
    }
    void scatter_weighed(const float* s, const float* adjoint_current, float* gradient) const {
        for (int64_t m = 0; m < in_units(); m++)
            if (s[m] != 0.0f) add_weighed(s[m], adjoint_current, gradient + m * stride);
    }
    // to += x from, one row
    void add_weighed(float x, const float* from, float* to) const {
        const int64_t n = stride;
        for (int64_t j = 0; j < n; j += LANES) store(to + j, fused(splat(x), load(from + j), load(to + j)));
    }
    // dW += (outer product of the active units and the adjoint current)
    void scatter(const int32_t* events, int64_t nb_events, const float* adjoint_current, float* gradient) const {
        add_rows<false>(events, nb_events, gradient, const_cast<float*>(adjoint_current));
    }
    template <bool TO_OUTPUT>
    void add_rows(const int32_t* events, int64_t nb_events, float* w, float* out) const {
        const int64_t n = stride;
        if (n == PADDING)
            each_row(events, nb_events, [=](int64_t row, int64_t o) {
                TO_OUTPUT ? add(out + o, w + row) : add(w + row, out + o);
            });
        else
            each_row(events, nb_events, [=](int64_t row, int64_t o) {
                for (int64_t j = 0; j < n; j += PADDING) TO_OUTPUT ? add(out + o + j, w + row + j) : add(w + row + j, out + o + j);
            });
    }

    // current[r] += W s[r] for R rows of spikes given as floats: the dense path, for high activity
    void dense_forward(int64_t rows, const float* s, int64_t lds, float* current, int64_t ldc) const {
        for (int64_t oy = 0; oy < height; oy++)
            for (int64_t ky = std::max<int64_t>(0, pad_h - oy * step_h); ky < std::min(kernel_h, in_height + pad_h - oy * step_h); ky++)
                for (int64_t ox = 0; ox < width; ox++) {
                    int64_t k0 = std::max<int64_t>(0, pad_w - ox * step_w), k1 = std::min(kernel_w, in_width + pad_w - ox * step_w);
                    int64_t y = oy * step_h + ky - pad_h, x = ox * step_w + k0 - pad_w;
                    multiply_add(rows, s + (y * in_width + x) * in_stride, lds, (k1 - k0) * in_stride,
                                 forward + (ky * kernel_w + k0) * in_stride * stride, stride, stride,
                                 current + (oy * width + ox) * stride, ldc);
                }
    }

    // Place of tap kx in `adjoint`: grouped by kx mod step_w, descending within a group, so that the taps that meet at one input
    // position lie side by side in the order of their output positions.
    static int64_t adjoint_slot(int64_t kx, int64_t kernel_w, int64_t step_w) {
        int64_t slot = 0;
        for (int64_t r = 0; r < kx % step_w; r++) slot += (kernel_w - r + step_w - 1) / step_w;
        int64_t last = kx + (kernel_w - 1 - kx) / step_w * step_w;
        return slot + (last - kx) / step_w;
    }
    // gs[r] += W^T dI[r] for `rows` rows
    void dense_adjoint(int64_t rows, const float* dI, int64_t ldd, float* gs, int64_t ldg) const {
        for (int64_t y = 0; y < in_height; y++)
            for (int64_t oy = 0; oy < height; oy++) {
                int64_t ky = y + pad_h - oy * step_h;
                if (ky < 0 || ky >= kernel_h) continue;
                for (int64_t x = 0; x < in_width; x++) {
                    // output positions ox with 0 <= x + pad - ox step < kernel
                    int64_t reach = x + pad_w;
                    int64_t ox1 = std::min(width - 1, reach / step_w);
                    int64_t ox0 = reach - kernel_w + 1 <= 0 ? 0 : (reach - kernel_w + step_w) / step_w;
                    if (ox0 > ox1) continue;
                    int64_t slot = adjoint_slot(reach - ox0 * step_w, kernel_w, step_w);
                    multiply_add(rows, dI + (oy * width + ox0) * stride, ldd, (ox1 - ox0 + 1) * stride,
                                 adjoint + (ky * kernel_w + slot) * stride * in_stride, in_stride, in_stride,
                                 gs + (y * in_width + x) * in_stride, ldg);
                }
            }
    }
    // gs += W^T dI of one row for the units `few` alone
    void adjoint_of(const int32_t* few, int64_t nb_few, const float* dI, float* gs) const {
        for (int64_t e = 0; e < nb_few; e++) {
            const int64_t m = few[e], pos = position[m], c = m - pos * in_stride;
            vf sum{};
            for (int64_t p = first[pos]; p < first[pos + 1]; p++) {
                const float *w = forward + (pairs[p].tap * in_stride + c) * stride, *from = dI + pairs[p].out * stride;
                for (int64_t j = 0; j < stride; j += LANES) sum = fused(load(w + j), load(from + j), sum);
            }
            gs[m] += sum_of(sum);
        }
    }
    // gs += R^T dI for one sample and step of a recurrent (shape-preserving) connection: rows are positions. `halo` has room for
    // (width + kernel_w - 1) * stride floats.
    void recurrent_adjoint(const float* dI, float* gs, float* halo) const {
        if (single()) {
            dense_adjoint(1, dI, 0, gs, 0);
            return;
        }
        int64_t border = (kernel_w - 1 - pad_w) * stride, row = width * stride;
        for (int64_t oy = 0; oy < height; oy++) {
            std::memset(halo, 0, border * sizeof(float));
            std::memcpy(halo + border, dI + oy * row, row * sizeof(float));
            std::memset(halo + border + row, 0, pad_w * stride * sizeof(float));
            for (int64_t ky = 0; ky < kernel_h; ky++) {
                int64_t y = oy + ky - pad_h;
                if (y < 0 || y >= in_height) continue;
                multiply_add(in_width, halo, stride, kernel_w * stride, adjoint + ky * kernel_w * stride * in_stride, in_stride,
                             in_stride, gs + y * in_width * in_stride, in_stride);
            }
        }
    }
};
