// Sums and inner products of rows chosen by index. Names: n tokens, k entries of a token, d width, F features.
#pragma once
#include <cstring>

#include "parallel.h"

#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address)
#endif

constexpr int64_t CACHE_LINE = 16;  // floats

inline void prefetch_row(const float* row, int64_t d) {
    for (int64_t i = 0; i < d; i += CACHE_LINE) PREFETCH(row + i);
}

inline void add_row(float* __restrict out, const float* __restrict row, float weight, int64_t d) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++) out[i] += weight * row[i];
}

inline void add_two_rows(float* __restrict out, const float* __restrict a, const float* __restrict b, float weight_a,
                         float weight_b, int64_t d) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++) out[i] += weight_a * a[i] + weight_b * b[i];
}

// out = sum over entries of weight(i) * row(i), for i in [0, count), two rows at a time, the next two fetched ahead.
template <class Row, class Weight>
inline void weighted_sum(float* __restrict out, int64_t count, int64_t d, const Row& row, const Weight& weight) {
    std::memset(out, 0, sizeof(float) * d);
    int64_t i = 0;
    for (; i + 1 < count; i += 2) {
        if (i + 2 < count) prefetch_row(row(i + 2), d);
        if (i + 3 < count) prefetch_row(row(i + 3), d);
        add_two_rows(out, row(i), row(i + 1), weight(i), weight(i + 1), d);
    }
    if (i < count) add_row(out, row(i), weight(i), d);
}

inline float dot(const float* __restrict a, const float* __restrict b, int64_t d) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; i++) sum += a[i] * b[i];
    return sum;
}

// Four inner products at once: one chain of additions would wait for itself.
inline void dot_four(const float* __restrict x, const float* const rows[4], int64_t d, float out[4]) {
    const float *__restrict p = rows[0], *__restrict q = rows[1], *__restrict r = rows[2], *__restrict s = rows[3];
    float a = 0, b = 0, c = 0, e = 0;
#pragma omp simd reduction(+ : a, b, c, e)
    for (int64_t i = 0; i < d; i++) {
        a += x[i] * p[i];
        b += x[i] * q[i];
        c += x[i] * r[i];
        e += x[i] * s[i];
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = e;
}

inline bool in_range(const int64_t* indices, int64_t count, int64_t F) {
    bool ok = true;
    for (int64_t i = 0; i < count; i++) ok &= static_cast<uint64_t>(indices[i]) < static_cast<uint64_t>(F);
    return ok;
}

// out[j] = x . rows[index[j]]
template <class Index>
inline void dots(const float* x, const float* rows, const Index* index, int64_t k, int64_t d, float* out) {
    int64_t j = 0;
    for (; j + 3 < k; j += 4) {
        const float* four[4];
        for (int i = 0; i < 4; i++) {
            four[i] = rows + index[j + i] * d;
            if (j + i + 4 < k) prefetch_row(rows + index[j + i + 4] * d, d);
        }
        dot_four(x, four, d, out + j);
    }
    for (; j < k; j++) out[j] = dot(x, rows + index[j] * d, d);
}

// out[n, j] = x[n] . rows[indices[n, j]], and 0 where `kept` is given and not set
inline void gathered_dot(const float* x, const float* rows, const int64_t* indices, const uint8_t* kept, int64_t n,
                         int64_t k, int64_t d, float* out, int threads) {
    parallel(threads, n, 16, [=](Chunks& chunks) {
        std::vector<int64_t> place(k), index(k);
        std::vector<float> sums(k);
        for (int64_t begin, end; chunks.claim(begin, end);)
            for (int64_t token = begin; token < end; token++) {
                float* own = out + token * k;
                if (!kept) {
                    dots(x + token * d, rows, indices + token * k, k, d, own);
                    continue;
                }
                int64_t count = 0;
                for (int64_t j = 0; j < k; j++) {
                    place[count] = j;
                    index[count] = indices[token * k + j];
                    count += kept[token * k + j] != 0;
                }
                dots(x + token * d, rows, index.data(), count, d, sums.data());
                std::memset(own, 0, sizeof(float) * k);
                for (int64_t j = 0; j < count; j++) own[place[j]] = sums[j];
            }
    });
}

// out[n] = sum_j values[n, j] rows[indices[n, j]], over entries whose value is not 0
inline void weighted_rows(const float* values, const int64_t* indices, const float* rows, int64_t n, int64_t k,
                          int64_t d, float* out, int threads) {
    parallel(threads, n, 16, [=](Chunks& chunks) {
        std::vector<int64_t> kept(k);
        for (int64_t begin, end; chunks.claim(begin, end);)
            for (int64_t token = begin; token < end; token++) {
                const float* value = values + token * k;
                const int64_t* index = indices + token * k;
                int64_t count = 0;
                for (int64_t j = 0; j < k; j++) {
                    kept[count] = j;
                    count += value[j] != 0;
                }
                weighted_sum(
                    out + token * d, count, d, [&](int64_t i) { return rows + index[kept[i]] * d; },
                    [&](int64_t i) { return value[kept[i]]; });
            }
    });
}

// Entries whose weight is not 0, feature by feature and in the order of tokens within one, and where each feature's begin.
struct ByFeature {
    std::vector<int64_t> starts;  // [F + 1]
    std::vector<int32_t> order;

    ByFeature(const float* weights, const int64_t* indices, int64_t entries, int64_t F) : starts(F + 1, 0) {
        for (int64_t i = 0; i < entries; i++) starts[indices[i] + 1] += weights[i] != 0;
        for (int64_t f = 0; f < F; f++) starts[f + 1] += starts[f];
        order.resize(starts[F]);
        std::vector<int64_t> place(starts.begin(), starts.end() - 1);
        for (int64_t i = 0; i < entries; i++)
            if (weights[i] != 0) order[place[indices[i]]++] = static_cast<int32_t>(i);
    }
};

// out[f] = sum over entries (n, j) of feature f of weights[n, j] rows[n]
inline void scatter_rows(const float* weights, const int64_t* indices, const float* rows, int64_t n, int64_t k, int64_t d,
                         int64_t F, float* out, int threads) {
    const ByFeature sorted(weights, indices, n * k, F);
    parallel(threads, F, 8, [=, &sorted](Chunks& chunks) {
        for (int64_t begin, end; chunks.claim(begin, end);)
            for (int64_t f = begin; f < end; f++) {
                const int32_t* entry = sorted.order.data() + sorted.starts[f];
                weighted_sum(
                    out + f * d, sorted.starts[f + 1] - sorted.starts[f], d,
                    [&](int64_t i) { return rows + entry[i] / k * d; }, [&](int64_t i) { return weights[entry[i]]; });
            }
    });
}
