// Vectors as wide as the processor's registers: 16 floats with AVX-512, 8 with AVX2, and pairs of 4 with SSE2 and NEON, so that
// one bit per lane always fills whole bytes.
//
// Compile with -ffp-contract=off: an expression rounds after every operation, so that spikes do not depend on the instruction set
// or the compiler. `fused` rounds once where the processor can: for gradients, and for products of spikes, which are exact.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

constexpr int64_t PADDING = 16;  // channels are padded to a multiple of it (layout.py), whatever the width of a vector

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int64_t LANES = 16;
typedef uint16_t Bits;  // one per lane
#else
constexpr int64_t LANES = 8;
typedef uint8_t Bits;
#endif
typedef float unaligned_quad __attribute__((vector_size(16), aligned(4), may_alias));

#if defined(__AVX2__)
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint64_t vl __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vf load(const float* p) { return *(const unaligned_vf*)p; }
static inline void store(float* p, vf v) { *(unaligned_vf*)p = v; }
template <class To, class From>
static inline To as(From v) { return (To)v; }  // the same bits
static inline vf to_float(vi v) { return __builtin_convertvector(v, vf); }
static inline vi to_int(vf v) { return __builtin_convertvector(v, vi); }
#else
template <class Quad>
struct Pair { Quad low, high; };
template <class Quad>
static inline Pair<Quad> pair_of(Quad low, Quad high) { return {low, high}; }
template <class Quad>
using element = std::remove_reference_t<decltype(std::declval<Quad&>()[0])>;
#define LANE_BY_LANE(op) \
    template <class Q> static inline auto operator op(Pair<Q> x, Pair<Q> y) { return pair_of(x.low op y.low, x.high op y.high); } \
    template <class Q> static inline auto operator op(Pair<Q> x, element<Q> y) { return pair_of(x.low op y, x.high op y); } \
    template <class Q> static inline auto operator op(element<Q> x, Pair<Q> y) { return pair_of(x op y.low, x op y.high); }
#define LANE_BY_LANE_AND_ASSIGN(op) \
    LANE_BY_LANE(op) \
    template <class Q, class Y> static inline Pair<Q>& operator op##=(Pair<Q>& x, Y y) { return x = x op y; }
LANE_BY_LANE_AND_ASSIGN(+) LANE_BY_LANE_AND_ASSIGN(-) LANE_BY_LANE_AND_ASSIGN(*) LANE_BY_LANE_AND_ASSIGN(&)
LANE_BY_LANE(/) LANE_BY_LANE(|) LANE_BY_LANE(^) LANE_BY_LANE(<<) LANE_BY_LANE(>>)

typedef float quad __attribute__((vector_size(16)));
typedef int32_t quad_i __attribute__((vector_size(16)));
// masks are of the compiler's own integers of 32 bits, which is another type where long has 32 bits (Windows)
#define COMPARED(op) \
    template <class Q> static inline Pair<quad_i> operator op(Pair<Q> x, Pair<Q> y) { return {(quad_i)(x.low op y.low), (quad_i)(x.high op y.high)}; } \
    template <class Q> static inline Pair<quad_i> operator op(Pair<Q> x, element<Q> y) { return {(quad_i)(x.low op y), (quad_i)(x.high op y)}; }
COMPARED(<) COMPARED(>) COMPARED(!=)
typedef uint32_t quad_u __attribute__((vector_size(16)));
typedef uint64_t quad_l __attribute__((vector_size(16)));
typedef Pair<quad> vf;
typedef Pair<quad_i> vi;
typedef Pair<quad_u> vu;
typedef Pair<quad_l> vl;

static inline vf load(const float* p) { return {*(const unaligned_quad*)p, *(const unaligned_quad*)(p + 4)}; }
static inline void store(float* p, vf v) { *(unaligned_quad*)p = v.low, *(unaligned_quad*)(p + 4) = v.high; }
template <class To, class From>
static inline To as(From v) { return {(decltype(To::low))v.low, (decltype(To::high))v.high}; }
static inline vf to_float(vi v) { return {__builtin_convertvector(v.low, quad), __builtin_convertvector(v.high, quad)}; }
static inline vi to_int(vf v) { return {__builtin_convertvector(v.low, quad_i), __builtin_convertvector(v.high, quad_i)}; }
#endif

// A store past the caches, for arrays too large to stay there: what was in memory is not read first.
static inline void store_past_cache(float* p, vf v) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__x86_64__)
    _mm_stream_ps(p, (__m128)v.low), _mm_stream_ps(p + 4, (__m128)v.high);
#else
    store(p, v);
#endif
}
// x y + z, rounded once where the processor has the instruction
static inline vf fused(vf x, vf y, vf z) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (vf)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z);
#elif defined(__aarch64__)
    return {(quad)vfmaq_f32((float32x4_t)z.low, (float32x4_t)x.low, (float32x4_t)y.low),
            (quad)vfmaq_f32((float32x4_t)z.high, (float32x4_t)x.high, (float32x4_t)y.high)};
#else
    return x * y + z;
#endif
}
static inline vf splat(float x) { return vf{} + x; }
static inline vf fused(vf x, vf y, float z) { return fused(x, y, splat(z)); }
static inline vf fused(float x, vf y, vf z) { return fused(splat(x), y, z); }
static inline vf where(vi mask, vf v) { return as<vf>(as<vi>(v) & mask); }  // v or 0
static inline vf vmin(vf x, vf y) {
#if defined(__AVX2__)
    return x < y ? x : y;
#else
    vi less = x < y;
    return as<vf>((as<vi>(x) & less) | (as<vi>(y) & (less ^ -1)));
#endif
}
static inline vf vmax(vf x, vf y) {
#if defined(__AVX2__)
    return x > y ? x : y;
#else
    vi more = x > y;
    return as<vf>((as<vi>(x) & more) | (as<vi>(y) & (more ^ -1)));
#endif
}
static inline float sum_of(vf x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float lane[LANES];
    store(lane, x);
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
#endif
}
static inline vf vabs(vf x) { return as<vf>(as<vi>(x) & 0x7fffffff); }

// One bit per lane of a comparison, and back.
static inline Bits bits_of(vi mask) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask);
#elif defined(__x86_64__)
    return _mm_movemask_ps((__m128)mask.low) | _mm_movemask_ps((__m128)mask.high) << 4;
#elif defined(__aarch64__)
    const quad_i low = {1, 2, 4, 8}, high = {16, 32, 64, 128};
    return vaddvq_s32((int32x4_t)((mask.low & low) | (mask.high & high)));
#else
    Bits bits = 0;
    for (int k = 0; k < 4; k++) bits |= (mask.low[k] & 1) << k | (mask.high[k] & 1) << (k + 4);
    return bits;
#endif
}
static inline vi mask_of(Bits bits) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (vi)_mm512_movm_epi32((__mmask16)bits);
#elif defined(__AVX2__)
    const vi lane = {1, 2, 4, 8, 16, 32, 64, 128};
    return (lane & (int32_t)bits) == lane;
#else
    const vi lane = {{1, 2, 4, 8}, {16, 32, 64, 128}};
    return (lane & (int32_t)bits) != 0;
#endif
}
static inline vf zero_or_one(Bits bits) { return where(mask_of(bits), splat(1.0f)); }

// Natural logarithm for x > 0 and exponential, to about 1 ulp (minimax polynomials after range reduction). The logarithm enters
// the thresholds of escape noise and is rounded after every operation, the exponential enters surrogates only.
static inline vf vlog(vf x) {
    vi bits = as<vi>(x);
    vi exponent = ((bits - 0x3f3504f3) >> 23);  // x = 2^exponent m with m in [sqrt(1/2), sqrt(2))
    vf m = as<vf>(bits - (exponent << 23)) - 1.0f;
    vf e = to_float(exponent);
    vf p = splat(7.0376836292e-2f);
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    vf square = m * m;
    return e * 0.693359375f + (m + (p * m * square + (e * -2.12194440e-4f - 0.5f * square)));
}
static inline vf vexp(vf x) {
    x = vmin(vmax(x, splat(-87.0f)), splat(87.0f));
    vf n = fused(x, splat(1.44269504089f), 12582912.0f);  // round to nearest by adding 1.5 * 2^23
    n -= 12582912.0f;
    vf r = fused(n, splat(2.12194440e-4f), fused(n, splat(-0.693359375f), x));
    vf p = splat(1.9875691500e-4f);
    p = fused(p, r, 1.3981999507e-3f);
    p = fused(p, r, 8.3334519073e-3f);
    p = fused(p, r, 4.1665795894e-2f);
    p = fused(p, r, 1.6666665459e-1f);
    p = fused(p, r, 5.0000001201e-1f);
    p = fused(p, r * r, r + 1.0f);
    return p * as<vf>((to_int(n) + 127) << 23);
}

// An upper bound of exp(x), by less than 7 %, for x from -80 to 80; that of the nearest end for others. 2^f <= 1 + f for f in [0, 1],
// which is what the bits of a float interpolate; the margin of 2^-9 covers the rounding of all that it is compared with.
static inline vf exp_at_most(vf x) {
    x = vmin(vmax(x, splat(-80.0f)), splat(80.0f));
    return as<vf>(to_int(x * 12102203.0f) + (127 << 23) + (1 << 14));
}

// Philox4x32-10 on LANES counters at once, in two vectors that do not wait for one another; see philox.py for the address. Words lie
// in the low halves of lanes of 64 bits: the high halves hold whatever a product left there.
constexpr int64_t COUNTERS = LANES / 2;  // of a vector
static inline vl multiply(vl word, uint32_t constant) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (vl)_mm512_mul_epu32((__m512i)word, _mm512_set1_epi64(constant));
#elif defined(__AVX2__)
    return (vl)_mm256_mul_epu32((__m256i)word, _mm256_set1_epi64x(constant));
#elif defined(__x86_64__)
    __m128i m = _mm_set1_epi64x(constant);
    return {(quad_l)_mm_mul_epu32((__m128i)word.low, m), (quad_l)_mm_mul_epu32((__m128i)word.high, m)};
#elif defined(__aarch64__)
    uint32x2_t m = vdup_n_u32(constant);
    return {(quad_l)vmull_u32(vmovn_u64((uint64x2_t)word.low), m), (quad_l)vmull_u32(vmovn_u64((uint64x2_t)word.high), m)};
#else
    return (word & 0xffffffffull) * (uint64_t)constant;
#endif
}
static inline void philox(vl c[2][4], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        for (int v = 0; v < 2; v++) {
            vl first = multiply(c[v][0], 0xD2511F53u), second = multiply(c[v][2], 0xCD9E8D57u);
            c[v][0] = (second >> 32) ^ c[v][1] ^ (uint64_t)k0, c[v][2] = (first >> 32) ^ c[v][3] ^ (uint64_t)k1;
            c[v][1] = second, c[v][3] = first;
        }
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}
// 0, 1, … COUNTERS - 1 in the order in which `words_of` takes lanes apart
static inline vl counters() {
    static const uint64_t lanes[2][8] = {{0, 2, 1, 3}, {0, 4, 1, 5, 2, 6, 3, 7}};
    return as<vl>(load((const float*)lanes[COUNTERS / 8]));
}
// The four words of every counter side by side: those of the first half of the counters, and of the second.
static inline void words_of(const vl c[4], vu words[2]) {
    const uint64_t low = 0xffffffffull;
    vl even = (c[0] & low) | (c[1] << 32), odd = (c[2] & low) | (c[3] << 32);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    words[0] = (vu)_mm512_unpacklo_epi64((__m512i)even, (__m512i)odd), words[1] = (vu)_mm512_unpackhi_epi64((__m512i)even, (__m512i)odd);
#elif defined(__AVX2__)
    words[0] = (vu)_mm256_unpacklo_epi64((__m256i)even, (__m256i)odd), words[1] = (vu)_mm256_unpackhi_epi64((__m256i)even, (__m256i)odd);
#else
    for (int k = 0; k < 2; k++) words[k] = {(quad_u)quad_l{even.low[k], odd.low[k]}, (quad_u)quad_l{even.high[k], odd.high[k]}};
#endif
}
