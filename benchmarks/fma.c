/* Fused multiply-adds on registers: the most single-precision operations per second that one core can do. */
#include <time.h>
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float v __attribute__((vector_size(BYTES)));

int fma_lanes(void) { return BYTES / 4; }

double fma_seconds(long rounds) {
    v a[12], m = (v){} + 0.999f, c = (v){} + 0.001f;
    struct timespec t0, t1;
#pragma GCC unroll 12
    for (int k = 0; k < 12; k++) {
        a[k] = (v){} + 1.0f;
        __asm__ volatile("" : "+m"(a[k]));
    }
    v a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3], a4 = a[4], a5 = a[5], a6 = a[6], a7 = a[7], a8 = a[8], a9 = a[9], a10 = a[10],
      a11 = a[11];
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (long k = 0; k < rounds; k++) {
        a0 = a0 * m + c, a1 = a1 * m + c, a2 = a2 * m + c, a3 = a3 * m + c, a4 = a4 * m + c, a5 = a5 * m + c;
        a6 = a6 * m + c, a7 = a7 * m + c, a8 = a8 * m + c, a9 = a9 * m + c, a10 = a10 * m + c, a11 = a11 * m + c;
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    a[0] = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11;
    __asm__ volatile("" : : "m"(a[0]));
    return (t1.tv_sec - t0.tv_sec) + 1e-9 * (t1.tv_nsec - t0.tv_nsec);
}
