// Connections between layers: products with spikes are event-driven, products with adjoints are small dense blocks.
//
// Units are laid out channels last, unit = position * stride + channel, with the channel stride padded to LANES so that one
// vector holds neighbouring channels of one position. A dense connection is a convolution whose kernel covers its whole input,
// so one code serves both.
#pragma once
#include <algorithm>
#include <vector>

#include "simd.h"

// C[r][0:16*NV] += sum_k A[r][k] B[k][0:16*NV] for R rows: the accumulators stay in registers.
template <int R, int NV>
static void block(const float* A, long lda, long K, const float* B, long ldb, float* C, long ldc) {
    vf acc[R][NV];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) acc[r][v] = load(C + r * ldc + v * LANES);
    for (long k = 0; k < K; k++) {
        vf b[NV];
        for (int v = 0; v < NV; v++) b[v] = load(B + k * ldb + v * LANES);
        for (int r = 0; r < R; r++) {
            vf a = splat(A[r * lda + k]);
            for (int v = 0; v < NV; v++) acc[r][v] += a * b[v];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) store(C + r * ldc + v * LANES, acc[r][v]);
}

template <int NV, int RMAX>
static void panel(long rows, const float* A, long lda, long K, const float* B, long ldb, float* C, long ldc) {
    long r = 0;
    for (; r + RMAX <= rows; r += RMAX) block<RMAX, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
    for (; r + 4 <= rows; r += 4) block<4, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
    for (; r + 2 <= rows; r += 2) block<2, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
    for (; r < rows; r++) block<1, NV>(A + r * lda, lda, K, B, ldb, C + r * ldc, ldc);
}

// C += A B with n a multiple of LANES; columns outside, so that a strip of B is reused by all rows.
static void multiply_add(long rows, const float* A, long lda, long K, const float* B, long ldb, long n, float* C, long ldc) {
    long j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES) panel<4, 6>(rows, A, lda, K, B + j, ldb, C + j, ldc);
    for (; j + 2 * LANES <= n; j += 2 * LANES) panel<2, 8>(rows, A, lda, K, B + j, ldb, C + j, ldc);
    for (; j < n; j += LANES) panel<1, 12>(rows, A, lda, K, B + j, ldb, C + j, ldc);
}

extern "C" struct ConnectionDesc {
    int64_t exists;
    int64_t in_channels, in_stride, in_height, in_width;
    int64_t channels, stride, height, width;  // of the output; stride is a multiple of LANES
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
        for (long y = 0; y < in_height; y++)
            for (long x = 0; x < in_width; x++) {
                first.push_back(pairs.size());
                for (long oy = 0; oy < height; oy++) {
                    long ky = y + pad_h - oy * step_h;
                    if (ky < 0 || ky >= kernel_h) continue;
                    for (long ox = 0; ox < width; ox++) {
                        long kx = x + pad_w - ox * step_w;
                        if (kx < 0 || kx >= kernel_w) continue;
                        pairs.push_back({(int32_t)(ky * kernel_w + kx), (int32_t)(oy * width + ox)});
                    }
                }
            }
        first.push_back(pairs.size());
        position.resize(in_units());
        for (long m = 0; m < in_units(); m++) position[m] = m / in_stride;
    }
    long in_units() const { return in_height * in_width * in_stride; }
    long units() const { return height * width * stride; }
    long weights() const { return kernel_h * kernel_w * in_stride * stride; }
    bool single() const { return height * width == 1; }

    template <class F>
    void each_row(const int32_t* events, long nb_events, F f) const {
        for (long e = 0; e < nb_events; e++) {
            long m = events[e], pos = position[m], c = m - pos * in_stride;
            for (long p = first[pos]; p < first[pos + 1]; p++)
                f((pairs[p].tap * in_stride + c) * stride, pairs[p].out * stride);
        }
    }

    // current += W s for the active units `events`
    void gather(const int32_t* events, long nb_events, float* current) const {
        if (single()) {
            for (long j = 0; j < stride; j += 4 * LANES) {
                long n = std::min(4L, (stride - j) / LANES);
                vf acc[4];
                for (long v = 0; v < n; v++) acc[v] = load(current + j + v * LANES);
                if (n == 4) {
                    for (long e = 0; e < nb_events; e++) {
                        const float* row = forward + events[e] * stride + j;
                        for (int v = 0; v < 4; v++) acc[v] += load(row + v * LANES);
                    }
                } else {
                    for (long e = 0; e < nb_events; e++) {
                        const float* row = forward + events[e] * stride + j;
                        for (long v = 0; v < n; v++) acc[v] += load(row + v * LANES);
                    }
                }
                for (long v = 0; v < n; v++) store(current + j + v * LANES, acc[v]);
            }
        } else {
            add_rows<true>(events, nb_events, const_cast<float*>(forward), current);
        }
    }
    // dW += (outer product of the active units and the adjoint current)
    void scatter(const int32_t* events, long nb_events, const float* adjoint_current, float* gradient) const {
        add_rows<false>(events, nb_events, gradient, const_cast<float*>(adjoint_current));
    }
    template <bool TO_OUTPUT>
    void add_rows(const int32_t* events, long nb_events, float* w, float* out) const {
        auto add = [](float* to, const float* from) { store(to, load(to) + load(from)); };
        if (stride == LANES)
            each_row(events, nb_events, [&](long row, long o) {
                TO_OUTPUT ? add(out + o, w + row) : add(w + row, out + o);
            });
        else
            each_row(events, nb_events, [&](long row, long o) {
                for (long j = 0; j < stride; j += LANES) TO_OUTPUT ? add(out + o + j, w + row + j) : add(w + row + j, out + o + j);
            });
    }

    // current[r] += W s[r] for R rows of spikes given as floats: the dense path, for high activity
    void dense_forward(long rows, const float* s, long lds, float* current, long ldc) const {
        for (long oy = 0; oy < height; oy++)
            for (long ky = std::max(0L, pad_h - oy * step_h); ky < std::min((long)kernel_h, in_height + pad_h - oy * step_h); ky++)
                for (long ox = 0; ox < width; ox++) {
                    long k0 = std::max(0L, pad_w - ox * step_w), k1 = std::min((long)kernel_w, in_width + pad_w - ox * step_w);
                    long y = oy * step_h + ky - pad_h, x = ox * step_w + k0 - pad_w;
                    multiply_add(rows, s + (y * in_width + x) * in_stride, lds, (k1 - k0) * in_stride,
                                 forward + (ky * kernel_w + k0) * in_stride * stride, stride, stride,
                                 current + (oy * width + ox) * stride, ldc);
                }
    }

    // Place of tap kx in `adjoint`: grouped by kx mod step_w, descending within a group, so that the taps that meet at one input
    // position lie side by side in the order of their output positions.
    static long adjoint_slot(long kx, long kernel_w, long step_w) {
        long slot = 0;
        for (long r = 0; r < kx % step_w; r++) slot += (kernel_w - r + step_w - 1) / step_w;
        long last = kx + (kernel_w - 1 - kx) / step_w * step_w;
        return slot + (last - kx) / step_w;
    }
    // gs[r] += W^T dI[r] for `rows` rows
    void dense_adjoint(long rows, const float* dI, long ldd, float* gs, long ldg) const {
        for (long y = 0; y < in_height; y++)
            for (long oy = 0; oy < height; oy++) {
                long ky = y + pad_h - oy * step_h;
                if (ky < 0 || ky >= kernel_h) continue;
                for (long x = 0; x < in_width; x++) {
                    // output positions ox with 0 <= x + pad - ox step < kernel
                    long reach = x + pad_w;
                    long ox1 = std::min(width - 1, reach / step_w);
                    long ox0 = reach - kernel_w + 1 <= 0 ? 0 : (reach - kernel_w + step_w) / step_w;
                    if (ox0 > ox1) continue;
                    long slot = adjoint_slot(reach - ox0 * step_w, kernel_w, step_w);
                    multiply_add(rows, dI + (oy * width + ox0) * stride, ldd, (ox1 - ox0 + 1) * stride,
                                 adjoint + (ky * kernel_w + slot) * stride * in_stride, in_stride, in_stride,
                                 gs + (y * in_width + x) * in_stride, ldg);
                }
            }
    }
    // gs += R^T dI for one sample and step of a recurrent (shape-preserving) connection: rows are positions. `halo` has room for
    // (width + kernel_w - 1) * stride floats.
    void recurrent_adjoint(const float* dI, float* gs, float* halo) const {
        if (single()) {
            dense_adjoint(1, dI, 0, gs, 0);
            return;
        }
        long border = (kernel_w - 1 - pad_w) * stride, row = width * stride;
        for (long oy = 0; oy < height; oy++) {
            std::memset(halo, 0, border * sizeof(float));
            std::memcpy(halo + border, dI + oy * row, row * sizeof(float));
            std::memset(halo + border + row, 0, pad_w * stride * sizeof(float));
            for (long ky = 0; ky < kernel_h; ky++) {
                long y = oy + ky - pad_h;
                if (y < 0 || y >= in_height) continue;
                multiply_add(in_width, halo, stride, kernel_w * stride, adjoint + ky * kernel_w * stride * in_stride, in_stride,
                             in_stride, gs + y * in_width * in_stride, in_stride);
            }
        }
    }
};
