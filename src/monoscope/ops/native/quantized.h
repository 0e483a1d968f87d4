// TopK of a dense encoder, chosen by 8-bit products and computed exactly. Coordinates are rounded to whole steps, as many as
// STEPS up to a token's own largest and ROW_STEPS up to a feature's; k and a margin of candidates are chosen, and their exact
// scores decide.
#pragma once
#include <limits>

#include "select.h"
#include "sparse.h"

constexpr int64_t TOKENS = 48;   // of a block, whose ranks for RUN features stay in cache
constexpr int64_t RUN = 2048;    // features
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512VNNI__)
#define PAIRWISE                 // products are added in 16 bits, which hold eight of 7 bits by 6
constexpr int64_t PANEL = 16;    // features side by side
constexpr int64_t TILE = 3;      // tokens side by side
constexpr int64_t DEPTH = 16;    // coordinates of a turn
constexpr int64_t STEPS = 63;    // of a token
constexpr int64_t ROW_STEPS = 31;
#else
constexpr int64_t PANEL = 64;
constexpr int64_t TILE = 6;
constexpr int64_t DEPTH = 4;
constexpr int64_t STEPS = 127;
constexpr int64_t ROW_STEPS = 127;
#endif
constexpr int64_t MIDDLE = STEPS + 1;  // what tokens are moved by, to be positive

inline int64_t padded(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Rounds a row to whole steps, and returns the length of a step: 0 for a row of zeros, NaN for one that is not finite.
template <int64_t MOST>
inline float quantize(const float* __restrict x, int64_t d, int8_t* __restrict out) {
    float most = 0, trouble = 0;
#pragma omp simd reduction(max : most) reduction(+ : trouble)
    for (int64_t i = 0; i < d; i++) {
        most = std::max(most, std::fabs(x[i]));
        trouble += x[i] * 0;
    }
    const bool is_finite = trouble == 0;
    const float inverse = is_finite && most > 0 ? MOST / most : 0;
    if (!is_finite || !(inverse < std::numeric_limits<float>::infinity())) {
        std::memset(out, 0, d);
        return is_finite ? 0 : std::numeric_limits<float>::quiet_NaN();
    }
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
        const float steps = x[i] * inverse;
        out[i] = static_cast<int8_t>(static_cast<int32_t>(steps + (steps < 0 ? -0.5f : 0.5f)));
    }
    return most / MOST;
}

// Rows of features in 8 bits, four coordinates of a panel after four others: [F / PANEL][d / 4][PANEL][4], d padded to DEPTH.
// Products are of tokens shifted to be positive, whose shift is taken off again: MIDDLE times the sum of a row.
class Packed {
    std::vector<int8_t> storage;

public:
    const int64_t quads, panels;
    int8_t* weight;
    std::vector<float> step, shift, bias;

    Packed(const float* rows, const float* b, const float* norm, int64_t F, int64_t d, int threads)
        : storage(padded(F, 64) * padded(d, DEPTH) + 64, 0),
          quads(padded(d, DEPTH) / 4),
          panels(padded(F, 64) / PANEL),
          weight(storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64),
          step(panels * PANEL, 0),
          shift(panels * PANEL, 0),
          bias(panels * PANEL, -std::numeric_limits<float>::infinity()) {
        parallel(threads, F, PANEL, [&](Chunks& chunks) {
            std::vector<int8_t> row(quads * 4, 0);
            for (int64_t begin, end; chunks.claim(begin, end);)
                for (int64_t f = begin; f < end; f++) {
                    const float scale = norm ? norm[f] : 1, length = quantize<ROW_STEPS>(rows + f * d, d, row.data());
                    int32_t sum = 0;
                    for (int64_t i = 0; i < d; i++) sum += row[i];
                    int8_t* panel = weight + f / PANEL * quads * 4 * PANEL + f % PANEL * 4;
                    for (int64_t q = 0; q < quads; q++) std::memcpy(panel + q * PANEL * 4, row.data() + q * 4, 4);
                    shift[f] = static_cast<float>(MIDDLE * sum);
                    step[f] = std::isnan(length) ? 0 : length * scale;
                    bias[f] = std::isnan(length) ? length : b[f] * scale;  // what is not a number is always a candidate
                }
        });
    }
};

#if defined(__AVX512VNNI__)
// Assembly, since compilers copy and spill these accumulators when they are written with intrinsics.
#define ADD_PRODUCTS(sum, x, w) asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w))

struct Sums {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

    __attribute__((always_inline)) void add(const uint8_t* x, __m512i wa, __m512i wb, __m512i wc, __m512i wd) {
        int32_t four;
        std::memcpy(&four, x, 4);
        const __m512i own = _mm512_set1_epi32(four);
        ADD_PRODUCTS(a, own, wa);
        ADD_PRODUCTS(b, own, wb);
        ADD_PRODUCTS(c, own, wc);
        ADD_PRODUCTS(d, own, wd);
    }

    static __attribute__((always_inline)) void rank(__m512i sum, const float* step, const float* shift, const float* bias,
                                                    float own, int32_t* out) {
        const __m512 steps = _mm512_sub_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(shift));
        const __m512 length = _mm512_mul_ps(_mm512_loadu_ps(step), _mm512_set1_ps(own));
        const __m512i bits = _mm512_castps_si512(_mm512_fmadd_ps(steps, length, _mm512_loadu_ps(bias)));
        const __m512i flip = _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7fffffff));
        _mm512_storeu_si512(out, _mm512_xor_si512(bits, flip));
    }

    __attribute__((always_inline)) void finish(const float* step, const float* shift, const float* bias, float own,
                                               int32_t* out) const {
        rank(a, step, shift, bias, own, out);
        rank(b, step + 16, shift + 16, bias + 16, own, out + 16);
        rank(c, step + 32, shift + 32, bias + 32, own, out + 32);
        rank(d, step + 48, shift + 48, bias + 48, own, out + 48);
    }
};
#elif defined(PAIRWISE)
inline __m256i four_of(const uint8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

// Products of fours of coordinates with those of eight features, in pairs of 16 bits: 8 * 127 * 31 < 2^15.
struct Sums {
    __m256i a = _mm256_setzero_si256(), b = a, pairs_a, pairs_b;

    __attribute__((always_inline)) void begin(const uint8_t* x, __m256i wa, __m256i wb) {
        const __m256i own = four_of(x);
        pairs_a = _mm256_maddubs_epi16(own, wa);
        pairs_b = _mm256_maddubs_epi16(own, wb);
    }

    __attribute__((always_inline)) void add(const uint8_t* x, __m256i wa, __m256i wb) {
        const __m256i own = four_of(x);
        pairs_a = _mm256_add_epi16(pairs_a, _mm256_maddubs_epi16(own, wa));
        pairs_b = _mm256_add_epi16(pairs_b, _mm256_maddubs_epi16(own, wb));
    }

    __attribute__((always_inline)) void end() {
        const __m256i ones = _mm256_set1_epi16(1);
        a = _mm256_add_epi32(a, _mm256_madd_epi16(pairs_a, ones));
        b = _mm256_add_epi32(b, _mm256_madd_epi16(pairs_b, ones));
    }

    static __attribute__((always_inline)) void rank(__m256i sum, const float* step, const float* shift, const float* bias,
                                                    float own, int32_t* out) {
        const __m256 steps = _mm256_sub_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(shift));
        const __m256 length = _mm256_mul_ps(_mm256_loadu_ps(step), _mm256_set1_ps(own));
        const __m256i bits = _mm256_castps_si256(_mm256_fmadd_ps(steps, length, _mm256_loadu_ps(bias)));
        const __m256i flip = _mm256_and_si256(_mm256_srai_epi32(bits, 31), _mm256_set1_epi32(0x7fffffff));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_xor_si256(bits, flip));
    }

    __attribute__((always_inline)) void finish(const float* step, const float* shift, const float* bias, float own,
                                               int32_t* out) const {
        rank(a, step, shift, bias, own, out);
        rank(b, step + 8, shift + 8, bias + 8, own, out + 8);
    }
};
#endif

// Ranks of a tile of tokens for one panel of features; x holds tokens plus MIDDLE, `steps` their lengths of a step.
inline void ranks_of_tile(const uint8_t* x, const float* steps, const Packed& packed, int64_t panel, int32_t* ranks) {
    const int64_t stride = packed.quads * 4;
    const int8_t* w = packed.weight + panel * stride * PANEL;
    const float *step = packed.step.data() + panel * PANEL, *shift = packed.shift.data() + panel * PANEL,
                *bias = packed.bias.data() + panel * PANEL;
#if defined(__AVX512VNNI__)
    Sums s0, s1, s2, s3, s4, s5;
    for (int64_t q = 0; q < packed.quads; q++, x += 4, w += 4 * PANEL) {
        const __m512i wa = _mm512_load_si512(w), wb = _mm512_load_si512(w + 64), wc = _mm512_load_si512(w + 128),
                      wd = _mm512_load_si512(w + 192);
        s0.add(x, wa, wb, wc, wd);
        s1.add(x + stride, wa, wb, wc, wd);
        s2.add(x + 2 * stride, wa, wb, wc, wd);
        s3.add(x + 3 * stride, wa, wb, wc, wd);
        s4.add(x + 4 * stride, wa, wb, wc, wd);
        s5.add(x + 5 * stride, wa, wb, wc, wd);
    }
    s0.finish(step, shift, bias, steps[0], ranks);
    s1.finish(step, shift, bias, steps[1], ranks + RUN);
    s2.finish(step, shift, bias, steps[2], ranks + 2 * RUN);
    s3.finish(step, shift, bias, steps[3], ranks + 3 * RUN);
    s4.finish(step, shift, bias, steps[4], ranks + 4 * RUN);
    s5.finish(step, shift, bias, steps[5], ranks + 5 * RUN);
#elif defined(PAIRWISE)
    Sums s0, s1, s2;
    for (int64_t q = 0; q < packed.quads; q += DEPTH / 4, x += DEPTH) {
        const auto* own = reinterpret_cast<const __m256i*>(w + q * 4 * PANEL);
        __m256i wa = _mm256_load_si256(own), wb = _mm256_load_si256(own + 1);
        s0.begin(x, wa, wb);
        s1.begin(x + stride, wa, wb);
        s2.begin(x + 2 * stride, wa, wb);
#pragma GCC unroll 3
        for (int64_t i = 1; i < DEPTH / 4; i++) {
            wa = _mm256_load_si256(own + 2 * i), wb = _mm256_load_si256(own + 2 * i + 1);
            s0.add(x + 4 * i, wa, wb);
            s1.add(x + stride + 4 * i, wa, wb);
            s2.add(x + 2 * stride + 4 * i, wa, wb);
        }
        s0.end();
        s1.end();
        s2.end();
    }
    s0.finish(step, shift, bias, steps[0], ranks);
    s1.finish(step, shift, bias, steps[1], ranks + RUN);
    s2.finish(step, shift, bias, steps[2], ranks + 2 * RUN);
#else
    for (int64_t t = 0; t < TILE; t++) {
        int32_t sums[PANEL] = {};
        for (int64_t q = 0; q < packed.quads; q++)
            for (int64_t f = 0; f < PANEL; f++)
                for (int64_t i = 0; i < 4; i++) sums[f] += x[t * stride + q * 4 + i] * w[(q * PANEL + f) * 4 + i];
        for (int64_t f = 0; f < PANEL; f++)
            ranks[t * RUN + f] = rank_of((sums[f] - shift[f]) * (step[f] * steps[t]) + bias[f]);
    }
#endif
}

// The k largest scores of each token, features ascending: score = (x . row + b) norm, value = max(x . row + b, 0).
inline void encode_topk(const float* x, const float* rows, const float* b, const float* norm, int64_t n, int64_t d, int64_t F,
                        int64_t k, int64_t candidates, float* values, int64_t* features, int threads) {
    const Packed packed(rows, b, norm, F, d, threads);
    const int64_t stride = packed.quads * 4;
    parallel(threads, n, TOKENS, [=, &packed](Chunks& chunks) {
        std::vector<uint8_t> own(TOKENS * stride);
        std::vector<float> steps(TOKENS), exact(candidates);
        std::vector<int32_t> ranks(TOKENS * RUN);
        std::vector<Largest> largest(TOKENS, Largest(candidates, RUN));
        Largest best(k, padded(candidates, LANES));
        for (int64_t begin, end; chunks.claim(begin, end);) {
            for (int64_t t = 0; t < end - begin; t++) {
                uint8_t* token = own.data() + t * stride;
                steps[t] = quantize<STEPS>(x + (begin + t) * d, d, reinterpret_cast<int8_t*>(token));
                if (std::isnan(steps[t])) steps[t] = 0;  // any features will do: their exact values are no numbers
                for (int64_t i = 0; i < stride; i++) token[i] = static_cast<uint8_t>(token[i] + MIDDLE);
                largest[t].reset();
            }
            for (int64_t first = 0; first < packed.panels * PANEL; first += RUN) {
                const int64_t width = std::min(RUN, packed.panels * PANEL - first);
                for (int64_t f = 0; f < width; f += PANEL)
                    for (int64_t t = 0; t < end - begin; t += TILE)
                        ranks_of_tile(own.data() + t * stride, steps.data() + t, packed, (first + f) / PANEL,
                                      ranks.data() + t * RUN + f);
                for (int64_t t = 0; t < end - begin; t++)
                    largest[t].take(ranks.data() + t * RUN, width, static_cast<int32_t>(first));
            }
            for (int64_t t = 0; t < end - begin; t++) {
                Largest& chosen = largest[t];
                chosen.cut();
                dots(x + (begin + t) * d, rows, chosen.feature.data(), chosen.count, d, exact.data());
                for (int64_t i = 0; i < chosen.count; i++) {
                    const int32_t f = chosen.feature[i];
                    exact[i] += b[f];
                    best.feature[i] = static_cast<int32_t>(i);
                    best.rank[i] = rank_of(norm ? exact[i] * norm[f] : exact[i]);
                }
                best.count = chosen.count;
                best.cut();
                for (int64_t i = 0; i < k; i++) {
                    const int32_t place = best.feature[i];
                    features[(begin + t) * k + i] = chosen.feature[place];
                    values[(begin + t) * k + i] = exact[place] < 0 ? 0 : exact[place];
                }
            }
        }
    });
}
