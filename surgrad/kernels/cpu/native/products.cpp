// Matrix products in single precision, C = A B: PyTorch's library (MKL) runs at 40 to 80 % of the peak of processors of another maker.
//
// Blocks of B are packed so that a strip of two vectors is contiguous and stays in the second-level cache; strips of rows of A are
// packed into the first-level cache; as many sums as there are registers for (12 x 32 with AVX-512, 6 x 16 with AVX2) stay in them.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "identity.h"
#include "parallel.h"
#include "simd.h"

namespace {

constexpr int64_t SHARE = 1 << 24;  // multiply-adds that are worth another thread
#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int64_t ROWS = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int64_t ROWS = 6;
#else
constexpr int64_t ROWS = 3;
#endif
constexpr int64_t COLUMNS = 2 * LANES, DEPTH = 512, WIDTH = 256;

struct View {  // element (i, j) is p[i * row + j * column]; one of the strides is 1
    const float* p;
    int64_t row, column;
    View at(int64_t i, int64_t j) const { return {p + i * row + j * column, row, column}; }
};

// A packed strip: rows one after the other if they are contiguous, else columns.
template <bool BY_ROW>
struct Strip {
    static constexpr int64_t row = BY_ROW ? DEPTH + LANES : 1, column = BY_ROW ? 1 : LANES;
    static constexpr int64_t floats = (BY_ROW ? ROWS * row : DEPTH * column) + 16;  // neighbours begin in different sets of a cache
    // `count` neighbouring strips of R rows: taken together, columns are read by whole cache lines
    template <int R>
    static void pack(View a, int64_t count, int64_t depth, float* to) {
        if (BY_ROW)
            for (int64_t i = 0; i < R * count; i++) std::memcpy(to + i * row, a.p + i * a.row, depth * sizeof(float));
        else
            for (int64_t k = 0; k < depth; k++)
                for (int64_t s = 0; s < count; s++) std::memcpy(to + s * floats + k * column, a.p + k * a.column + s * R, R * sizeof(float));
    }
};

template <bool BY_ROW, int R, int NV>
void tile(const float* a, const float* b, int64_t depth, float* c, int64_t ldc, bool add) {
    using S = Strip<BY_ROW>;
    vf sum[R][NV];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) sum[r][v] = add ? load(c + r * ldc + v * LANES) : vf{};
    for (int64_t k = 0; k < depth; k++) {
        vf x[NV];
        for (int v = 0; v < NV; v++) x[v] = load(b + k * COLUMNS + v * LANES);
        for (int r = 0; r < R; r++) {
            vf y = splat(a[r * S::row + k * S::column]);
            for (int v = 0; v < NV; v++) sum[r][v] = fused(y, x[v], sum[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) store(c + r * ldc + v * LANES, sum[r][v]);
}

template <bool BY_ROW, int R>
void strips(View a, int64_t count, const float* packed, int64_t depth, int64_t width, float* buffer, float* c, int64_t ldc, bool add) {
    Strip<BY_ROW>::template pack<R>(a, count, depth, buffer);
    for (int64_t s = 0; s < count; s++, c += R * ldc, buffer += Strip<BY_ROW>::floats)
        for (int64_t j = 0; j < width; j += COLUMNS) {
            const float* b = packed + j * DEPTH;
            if (width - j >= COLUMNS) tile<BY_ROW, R, 2>(buffer, b, depth, c + j, ldc, add);
            else tile<BY_ROW, R, 1>(buffer, b, depth, c + j, ldc, add);
        }
}

void pack(View b, int64_t depth, int64_t width, float* to) {
    for (int64_t j = 0; j < width; j += COLUMNS, to += DEPTH * COLUMNS) {
        int64_t n = std::min(COLUMNS, width - j);
        if (b.column == 1 && n == COLUMNS)  // of a size that the compiler knows
            for (int64_t k = 0; k < depth; k++) std::memcpy(to + k * COLUMNS, b.p + k * b.row + j, COLUMNS * sizeof(float));
        else if (b.column == 1)
            for (int64_t k = 0; k < depth; k++) std::memcpy(to + k * COLUMNS, b.p + k * b.row + j, n * sizeof(float));
        else
            for (int64_t i = 0; i < n; i++)
                for (int64_t k = 0; k < depth; k++) to[k * COLUMNS + i] = b.p[(j + i) * b.column + k];
    }
}

template <bool BY_ROW>
void product(int64_t M, int64_t N, int64_t K, View a, View b, float* c, int64_t ldc) {
    constexpr int64_t together = BY_ROW ? 1 : 48 / ROWS;  // 48 columns are three cache lines
    const size_t floats = DEPTH * WIDTH + together * Strip<BY_ROW>::floats;
    const auto aligned = std::align_val_t(64);
    auto release = [=](float* p) { ::operator delete(p, aligned); };
    std::unique_ptr<float, decltype(release)> memory((float*)::operator new(floats * sizeof(float), aligned), release);
    float *packed = memory.get(), *buffer = packed + DEPTH * WIDTH;
    const Interrupted interrupted;
    for (int64_t j = 0; j < N; j += WIDTH)
        for (int64_t k = 0; k < K; k += DEPTH) {
            if (interrupted(M * DEPTH)) return;
            const int64_t depth = std::min(DEPTH, K - k), width = std::min(WIDTH, N - j);
            pack(b.at(k, j), depth, width, packed);
            // what is left for strips of 4 and 1: a remainder of 2 leaves 8, for single rows wait for their sums
            const int64_t whole = ROWS == 6 && M % 6 == 2 && M > 2 ? M - 8 : M;
            int64_t i = 0;
            auto rest = [&](auto kernel, int64_t rows, int64_t count, int64_t end) {
                for (; i + rows * count <= end; i += rows * count)
                    kernel(a.at(i, k), count, packed, depth, width, buffer, c + i * ldc + j, ldc, k > 0);
            };
            rest(strips<BY_ROW, ROWS>, ROWS, together, whole);
            rest(strips<BY_ROW, ROWS>, ROWS, 1, whole);
            rest(strips<BY_ROW, 4>, 4, 1, M);
            rest(strips<BY_ROW, 1>, 1, 1, M);
        }
}

}  // namespace

extern "C" {

// C (M, N) = A (M, K) B (K, N), C contiguous, N a multiple of 16. Threads share the rows of C, or, where it is small, the sum over K.
void surgrad_product(int64_t M, int64_t N, int64_t K, const float* A, int64_t a_row, int64_t a_column, const float* B, int64_t b_row,
                     int64_t b_column, float* C, int64_t threads) {
    Call call;
    const View a{A, a_row, a_column}, b{B, b_row, b_column};
    auto run = a_column == 1 ? product<true> : product<false>;
    const bool split_sum = M * N < K * std::min(M, N) && M * N <= 1 << 18;
    const int64_t size = split_sum ? K : M, unit = split_sum ? 1 : ROWS, units = (size + unit - 1) / unit;
    const int64_t worth = std::max<int64_t>(1, M * N * K / SHARE);
    const int64_t n = std::max<int64_t>(1, std::min({threads, units, worth}));
    std::vector<float> partial(split_sum ? (n - 1) * M * N : 0);
    auto work = [&](int64_t t) {
        const int64_t first = units * t / n * unit, last = std::min(size, units * (t + 1) / n * unit);
        if (split_sum) run(M, N, last - first, a.at(0, first), b.at(first, 0), t ? partial.data() + (t - 1) * M * N : C, N);
        else run(last - first, N, K, a.at(first, 0), b, C + first * N, N);
    };
    share(n, work);
    for (size_t k = 0; k < partial.size(); k++) C[k % (M * N)] += partial[k];
}
}
