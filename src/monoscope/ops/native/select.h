// Which entries of a block of pre-activations survive. Scores are ranked as integers that order like them, with NaN above
// all, as torch.topk has it.
#pragma once
#include <climits>
#include <cmath>
#include <cstring>

#include "parallel.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

inline float widen(float value) { return value; }

inline float widen(uint16_t bf16) {
    const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline int32_t rank_of(float score) {
    int32_t bits;
    std::memcpy(&bits, &score, 4);
    const int32_t magnitude = bits & 0x7fffffff;
    const int32_t ordered = bits < 0 ? -magnitude : magnitude;
    return magnitude > 0x7f800000 ? INT_MAX : ordered;
}

constexpr int64_t LANES = 32;

template <class T, bool MAGNITUDE>
inline void ranks_of_row(const T* __restrict score, int64_t F, int32_t* __restrict ranks) {
#pragma omp simd
    for (int64_t f = 0; f < F; f++) {
        const float own = widen(score[f]);
        ranks[f] = rank_of(MAGNITUDE ? std::fabs(own) : own);
    }
}

// Appends those of `width` ranks that are at least `least`, in order, numbering features from `first`; returns the new count.
inline int64_t append(const int32_t* ranks, int64_t width, int32_t first, int32_t least, int32_t* feature, int32_t* rank,
                      int64_t count) {
#if defined(__AVX512F__)
    const __m512i bound = _mm512_set1_epi32(least);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t f = 0; f < width; f += 16) {
        const __m512i own = _mm512_loadu_si512(ranks + f);
        const __mmask16 kept = _mm512_cmpge_epi32_mask(own, bound);
        if (kept) {
            const __m512i number = _mm512_add_epi32(lane, _mm512_set1_epi32(first + static_cast<int32_t>(f)));
            _mm512_storeu_si512(feature + count, _mm512_maskz_compress_epi32(kept, number));
            _mm512_storeu_si512(rank + count, _mm512_maskz_compress_epi32(kept, own));
            count += __builtin_popcount(kept);
        }
    }
#elif defined(__AVX2__)
    const __m256i below = _mm256_set1_epi32(least - 1);  // least is not the smallest number
    for (int64_t f = 0; f < width; f += LANES) {
        uint32_t kept = 0;
        for (int64_t i = 0; i < LANES; i += 8) {
            const __m256i own = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ranks + f + i));
            const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(own, below)));
            kept |= static_cast<uint32_t>(bits) << i;
        }
        for (; kept; kept &= kept - 1) {
            const int64_t place = f + __builtin_ctz(kept);
            feature[count] = first + static_cast<int32_t>(place);
            rank[count++] = ranks[place];
        }
    }
#else
    for (int64_t f = 0; f < width; f += LANES) {
        int32_t most = INT_MIN;
        for (int64_t i = 0; i < LANES; i++) most = std::max(most, ranks[f + i]);
        if (most < least) continue;
        for (int64_t i = 0; i < LANES; i++)
            if (ranks[f + i] >= least) {
                feature[count] = first + static_cast<int32_t>(f + i);
                rank[count++] = ranks[f + i];
            }
    }
#endif
    return count;
}

// A bound that exactly k values reach, or else the k-th largest value: halving an interval and counting, which takes fewer
// mispredicted branches than partitioning.
inline int32_t bound_of_largest(const int32_t* values, int64_t count, int64_t k) {
    int32_t least = INT_MAX, most = INT_MIN;
#pragma omp simd reduction(min : least) reduction(max : most)
    for (int64_t i = 0; i < count; i++) {
        least = std::min(least, values[i]);
        most = std::max(most, values[i]);
    }
    while (least < most) {
        const int32_t middle = static_cast<int32_t>(least + (static_cast<int64_t>(most) - least + 1) / 2);
        int32_t reached = 0;
#pragma omp simd reduction(+ : reached)
        for (int64_t i = 0; i < count; i++) reached += values[i] >= middle;
        if (reached == k) return middle;
        if (reached > k) least = middle;
        else most = middle - 1;
    }
    return least;
}

// The k largest ranks of a row, which may come in several runs of features, without sorting it. The k-th largest of the
// maxima of groups bounds the k-th largest entry from below, and what reaches that bound is little more than k entries.
// Of entries that tie the first are taken. Widths are multiples of LANES, filled up with INT_MIN.
class Largest {
    const int64_t k, most;
    std::vector<int32_t> maxima;
    int32_t bound = INT_MIN + 1;

    void raise_bound(const int32_t* ranks, int64_t width) {
        const int64_t lines = width / LANES, groups = std::min(lines, (4 * k + LANES - 1) / LANES);
        const int64_t size = (lines + groups - 1) / groups;
        if (k > groups * LANES) return;
        maxima.assign(groups * LANES, INT_MIN);
        for (int64_t line = 0; line < lines; line++) {
            int32_t* __restrict top = maxima.data() + line / size * LANES;
            const int32_t* __restrict own = ranks + line * LANES;
#pragma omp simd
            for (int64_t i = 0; i < LANES; i++) top[i] = std::max(top[i], own[i]);
        }
        bound = std::max(bound, bound_of_largest(maxima.data(), groups * LANES, k));
    }

public:
    std::vector<int32_t> feature, rank;  // what is kept, features ascending
    int64_t count = 0;

    Largest(int64_t k, int64_t width) : k(k), most(4 * k), feature(most + width + LANES), rank(feature.size()) {}

    void reset() {
        count = 0;
        bound = INT_MIN + 1;
    }

    void take(const int32_t* ranks, int64_t width, int32_t first) {
        if (count == 0) raise_bound(ranks, width);
        count = append(ranks, width, first, bound, feature.data(), rank.data(), count);
        if (count > most) cut();
    }

    // Keeps the k largest.
    void cut() {
        if (count <= k) return;
        const int32_t least = bound_of_largest(rank.data(), count, k);
        int64_t ties = k, kept = 0;
        for (int64_t i = 0; i < count; i++) ties -= rank[i] > least;
        for (int64_t i = 0; i < count; i++)
            if (rank[i] > least || (rank[i] == least && ties-- > 0)) {
                feature[kept] = feature[i];
                rank[kept++] = rank[i];
            }
        count = kept;
        bound = least;
    }
};

// features [n, k] of the k largest scores of each row, ascending
template <class T, bool MAGNITUDE>
void top_per_row(const T* score, int64_t n, int64_t F, int64_t k, int64_t* features, int threads) {
    parallel(threads, n, 8, [=](Chunks& chunks) {
        const int64_t width = (F + LANES - 1) / LANES * LANES;
        std::vector<int32_t> ranks(width, INT_MIN);
        Largest largest(k, width);
        for (int64_t begin, end; chunks.claim(begin, end);)
            for (int64_t token = begin; token < end; token++) {
                ranks_of_row<T, MAGNITUDE>(score + token * F, F, ranks.data());
                largest.reset();
                largest.take(ranks.data(), width, 0);
                largest.cut();
                std::copy_n(largest.feature.begin(), k, features + token * k);
            }
    });
}

template <bool POSITIVE, class T>
inline bool is_kept(T pre, T score, float threshold) {
    return (widen(score) > threshold) & (!POSITIVE | (widen(pre) > 0));
}

// How many (positive) pre-activations of each row have a score above their feature's threshold.
template <bool POSITIVE, class T>
void count_above(const T* pre, const T* score, const float* threshold, int64_t n, int64_t F, int64_t* counts,
                 int threads) {
    parallel(threads, n, 8, [=](Chunks& chunks) {
        for (int64_t begin, end; chunks.claim(begin, end);)
            for (int64_t token = begin; token < end; token++) {
                const T *own = pre + token * F, *rank = score + token * F;
                int32_t count = 0;
#pragma omp simd reduction(+ : count)
                for (int64_t f = 0; f < F; f++) count += is_kept<POSITIVE>(own[f], rank[f], threshold[f]);
                counts[token] = count;
            }
    });
}

// Feature and value of each of them, row after row, each row's from starts[n].
template <bool POSITIVE, class T>
void above(const T* pre, const T* score, const float* threshold, int64_t n, int64_t F, const int64_t* starts,
           int64_t* feature, float* value, int threads) {
    parallel(threads, n, 8, [=](Chunks& chunks) {
        for (int64_t begin, end; chunks.claim(begin, end);)
            for (int64_t token = begin; token < end; token++) {
                const T *own = pre + token * F, *rank = score + token * F;
                int64_t place = starts[token];
                for (int64_t base = 0; base < F; base += LANES) {
                    const int64_t stop = std::min(base + LANES, F);
                    int32_t any = 0;
#pragma omp simd reduction(| : any)
                    for (int64_t f = base; f < stop; f++) any |= is_kept<POSITIVE>(own[f], rank[f], threshold[f]);
                    for (int64_t f = base; any && f < stop; f++)
                        if (is_kept<POSITIVE>(own[f], rank[f], threshold[f])) {
                            feature[place] = f;
                            value[place++] = widen(own[f]);
                        }
                }
            }
    });
}
