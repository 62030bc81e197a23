// Sixteen floats at a time through the compiler's vector extension: one AVX-512 register, two of AVX2, four of NEON.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

constexpr long LANES = 16;
typedef float vf __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint64_t vl __attribute__((vector_size(64), aligned(4), may_alias));

static inline vf load(const float* p) { return *(const vf*)p; }
static inline void store(float* p, vf v) { *(vf*)p = v; }
// A store past the caches, for arrays too large to stay there: what was in memory is not read first.
static inline void store_past_cache(float* p, vf v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX__)
    __m256 halves[2];
    std::memcpy(halves, &v, sizeof v);
    _mm256_stream_ps(p, halves[0]);
    _mm256_stream_ps(p + 8, halves[1]);
#else
    store(p, v);
#endif
}
static inline vf splat(float x) { return vf{} + x; }
static inline vf select(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }
static inline vf vmin(vf x, vf y) { return select(x < y, x, y); }
static inline vf vmax(vf x, vf y) { return select(x > y, x, y); }
static inline vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }

// One bit per lane of a comparison, and back.
static inline uint32_t bits_of(vi mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)mask);
#else
    uint32_t bits = 0;
    for (int k = 0; k < LANES; k++) bits |= (uint32_t)(mask[k] & 1) << k;
    return bits;
#endif
}
static inline vi mask_of(uint32_t bits) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (vi)_mm512_movm_epi32((__mmask16)bits);
#else
    const vi lane = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    return (lane & (int32_t)bits) != 0;
#endif
}
static inline vf zero_or_one(uint32_t bits) { return (vf)((vi)splat(1.0f) & mask_of(bits)); }

// Natural logarithm for x > 0 and exponential, to about 1 ulp (minimax polynomials after range reduction).
static inline vf vlog(vf x) {
    vi bits = (vi)x;
    vi exponent = ((bits - 0x3f3504f3) >> 23);  // x = 2^exponent m with m in [sqrt(1/2), sqrt(2))
    vf m = (vf)(bits - (exponent << 23)) - 1.0f;
    vf e = __builtin_convertvector(exponent, vf);
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
    vf n = x * 1.44269504089f + 12582912.0f;  // round to nearest by adding 1.5 * 2^23
    n -= 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

// Philox4x32-10 on sixteen counters at once; see surgrad/philox.py for the address.
static inline void multiply(uint32_t constant, vu word, vu& high, vu& low) {
    const uint64_t upper = 0xffffffff00000000ull;
#if defined(__AVX512F__)
    __m512i m = _mm512_set1_epi64(constant);
    vl even = (vl)_mm512_mul_epu32((__m512i)word, m);
    vl odd = (vl)_mm512_mul_epu32((__m512i)((vl)word >> 32), m);
#else
    vl even = ((vl)word & 0xffffffffull) * (uint64_t)constant;
    vl odd = ((vl)word >> 32) * (uint64_t)constant;
#endif
    high = (vu)((even >> 32) | (odd & upper));
    low = (vu)((even & ~upper) | (odd << 32));
}
static inline void philox(vu c[4], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        vu high0, low0, high1, low1;
        multiply(0xD2511F53u, c[0], high0, low0);
        multiply(0xCD9E8D57u, c[2], high1, low1);
        vu c1 = c[1], c3 = c[3];
        c[0] = high1 ^ c1 ^ k0, c[1] = low1, c[2] = high0 ^ c3 ^ k1, c[3] = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}
