// The kernels behind a plain C interface: addresses, sizes, number of threads. Contiguous arrays; indices are 64-bit and are
// checked by the functions that follow them (1: out of range, nothing was written).
#include "adam.h"
#include "quantized.h"
#include "select.h"
#include "sparse.h"

#if defined(_WIN32)
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C" __attribute__((visibility("default")))
#endif

API void monoscope_threads_of(Parallel start) { openmp() = start; }

API int monoscope_gathered_dot(const float* x, const float* rows, const int64_t* indices, const uint8_t* kept, int64_t n,
                               int64_t k, int64_t d, int64_t F, float* out, int threads) {
    if (!in_range(indices, n * k, F)) return 1;
    gathered_dot(x, rows, indices, kept, n, k, d, out, threads);
    return 0;
}

API int monoscope_weighted_rows(const float* values, const int64_t* indices, const float* rows, int64_t n, int64_t k,
                                int64_t d, int64_t F, float* out, int threads) {
    if (!in_range(indices, n * k, F)) return 1;
    weighted_rows(values, indices, rows, n, k, d, out, threads);
    return 0;
}

API int monoscope_scatter_rows(const float* weights, const int64_t* indices, const float* rows, int64_t n, int64_t k,
                               int64_t d, int64_t F, float* out, int threads) {
    if (!in_range(indices, n * k, F)) return 1;
    scatter_rows(weights, indices, rows, n, k, d, F, out, threads);
    return 0;
}

template <class T>
static void top_per_row_of(const void* score, int64_t n, int64_t F, int64_t k, int magnitude, int64_t* features,
                           int threads) {
    const T* own = static_cast<const T*>(score);
    if (magnitude) top_per_row<T, true>(own, n, F, k, features, threads);
    else top_per_row<T, false>(own, n, F, k, features, threads);
}

API void monoscope_top_per_row(const void* score, int is_bf16, int64_t n, int64_t F, int64_t k, int magnitude,
                               int64_t* features, int threads) {
    if (is_bf16) top_per_row_of<uint16_t>(score, n, F, k, magnitude, features, threads);
    else top_per_row_of<float>(score, n, F, k, magnitude, features, threads);
}

template <bool POSITIVE, class T>
static void above_of(const void* pre, const void* score, const float* threshold, int64_t n, int64_t F, int64_t* counts,
                     const int64_t* starts, int64_t* feature, float* value, int threads) {
    const T *own = static_cast<const T*>(pre), *rank = static_cast<const T*>(score);
    if (starts) above<POSITIVE>(own, rank, threshold, n, F, starts, feature, value, threads);
    else count_above<POSITIVE>(own, rank, threshold, n, F, counts, threads);
}

// Counts where `starts` is null, and what was counted where it is not.
API void monoscope_above(const void* pre, const void* score, int is_bf16, int positive, const float* threshold, int64_t n,
                         int64_t F, int64_t* counts, const int64_t* starts, int64_t* feature, float* value, int threads) {
    auto* find = is_bf16 ? (positive ? above_of<true, uint16_t> : above_of<false, uint16_t>)
                         : (positive ? above_of<true, float> : above_of<false, float>);
    find(pre, score, threshold, n, F, counts, starts, feature, value, threads);
}

API void monoscope_encode_topk(const float* x, const float* rows, const float* b, const float* norm, int64_t n, int64_t d,
                               int64_t F, int64_t k, int64_t candidates, float* values, int64_t* features, int threads) {
    encode_topk(x, rows, b, norm, n, d, F, k, candidates, values, features, threads);
}

API int monoscope_multiplies_int8() {
#if defined(__AVX512VNNI__) || defined(PAIRWISE)
    return 1;
#else
    return 0;
#endif
}

API void monoscope_adam_rows(float* weight, const float* grad, float* first, float* second, int64_t n, int64_t d,
                             float step_size, float beta1, float beta2, float eps, float correction, float scale,
                             int unit_norm, int threads) {
    adam_rows(weight, grad, first, second, n, d, {step_size, beta1, beta2, eps, correction, scale}, unit_norm,
              threads);
}
