// Adam (Kingma, Ba 2015), one pass over each row: gradient scaled, its part along the row removed, moments, step, unit norm.
#pragma once
#include <cmath>

#include "sparse.h"

struct Adam {
    float step_size, beta1, beta2, eps, correction, scale;  // correction: of the root of the second moment
};

inline void adam_rows(float* weight, const float* grad, float* first, float* second, int64_t n, int64_t d,
                      const Adam& adam, bool unit_norm, int threads) {
    const int64_t size = std::max<int64_t>(1, 4096 / std::max<int64_t>(d, 1));
    parallel(threads, n, size, [=](Chunks& chunks) {
        const float rest1 = 1 - adam.beta1, rest2 = 1 - adam.beta2;
        for (int64_t begin, end; chunks.claim(begin, end);)
            for (int64_t row = begin; row < end; row++) {
                float *__restrict w = weight + row * d, *__restrict m = first + row * d, *__restrict v = second + row * d;
                const float* __restrict g = grad + row * d;
                const float along = unit_norm ? adam.scale * dot(g, w, d) : 0;
                float square = 0;
#pragma omp simd reduction(+ : square)
                for (int64_t i = 0; i < d; i++) {
                    const float own = adam.scale * g[i] - along * w[i];
                    m[i] += rest1 * (own - m[i]);
                    v[i] = adam.beta2 * v[i] + rest2 * own * own;
                    w[i] -= adam.step_size * m[i] / (std::sqrt(v[i]) * adam.correction + adam.eps);
                    square += w[i] * w[i];
                }
                if (!unit_norm) continue;
                const float inverse = 1 / std::max(std::sqrt(square), 1e-12f);
#pragma omp simd
                for (int64_t i = 0; i < d; i++) w[i] *= inverse;
            }
    });
}
