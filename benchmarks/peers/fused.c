/* Gradient descent of the unconstrained model by hand: state in place, one pass over each part a step.
 *
 * H (n, p) in class blocks, W (C, p), both row-major. No column depends on another, so every thread takes its columns
 * through all steps without waiting for the rest. `pull` is eta (1 + gamma)/n and `push` is eta gamma/n.
 */
#include <stdlib.h>

static void columns(REAL *H, REAL *W, REAL *buffer, long classes, long per_class, long p, long from, long to,
                    long steps, REAL pull, REAL push)
{
    long width = to - from;
    REAL *sum_W = buffer, *next_W = sum_W + width, *sum_S = next_W + width, *lift = sum_S + width, *S = lift + width;
    for (long j = 0; j < width; j++) {
        sum_W[j] = 0;
        for (long c = 0; c < classes; c++)
            sum_W[j] += W[c * p + from + j];
    }
    for (long k = 0; k < steps; k++) {
        for (long j = 0; j < width; j++)
            sum_S[j] = next_W[j] = 0;
        for (long c = 0; c < classes; c++) {
            REAL *w = W + c * p + from, *s = S + c * width;
            for (long j = 0; j < width; j++) {
                lift[j] = pull * w[j] - push * sum_W[j];
                s[j] = 0;
            }
            for (long i = 0; i < per_class; i++) {
                REAL *h = H + (c * per_class + i) * p + from;
                for (long j = 0; j < width; j++) {
                    s[j] += h[j];
                    h[j] += lift[j];
                }
            }
            for (long j = 0; j < width; j++)
                sum_S[j] += s[j];
        }
        for (long c = 0; c < classes; c++) {
            REAL *w = W + c * p + from, *s = S + c * width;
            for (long j = 0; j < width; j++) {
                w[j] += pull * s[j] - push * sum_S[j];
                next_W[j] += w[j];
            }
        }
        REAL *swap = sum_W;
        sum_W = next_W;
        next_W = swap;
    }
}

int descend(REAL *H, REAL *W, long classes, long per_class, long p, long steps, double pull, double push)
{
    int failed = 0;
    /* 64 columns are whole cache lines in either precision. */
    long blocks = (p + 63) / 64;
#pragma omp parallel for schedule(static) reduction(| : failed)
    for (long part = 0; part < PARTS; part++) {
        long from = blocks * part / PARTS * 64, to = blocks * (part + 1) / PARTS * 64;
        to = to < p ? to : p;
        if (from >= to)
            continue;
        REAL *buffer = malloc((to - from) * (classes + 4) * sizeof(REAL));
        if (!buffer) {
            failed = 1;
            continue;
        }
        columns(H, W, buffer, classes, per_class, p, from, to, steps, (REAL)pull, (REAL)push);
        free(buffer);
    }
    return failed;
}

/* a = scale b + a over `size` numbers, `times` times, every thread on its own piece. */
void triad(REAL *a, const REAL *b, long size, long times, double scale)
{
#pragma omp parallel for schedule(static)
    for (long part = 0; part < PARTS; part++) {
        long from = size * part / PARTS, to = size * (part + 1) / PARTS;
        for (long k = 0; k < times; k++) {
            for (long j = from; j < to; j++)
                a[j] += (REAL)scale * b[j];
            /* or the compiler would join the passes */
            __asm__ volatile("" ::: "memory");
        }
    }
}
