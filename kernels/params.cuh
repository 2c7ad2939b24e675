// The params structs that kernels take by value. Each mirrors the struct of the same name in
// src/runner/cuda/ops/, which documents the fields and asserts the same sizes and offsets.
//
// Pointers first, then 4-byte scalars. `T` is the kernel's compute type.
#pragma once

#include <cstddef>
#include <cstdint>

// The driver's CUtensorMap. A kernel finds it in a `__grid_constant__` parameter.
struct alignas(128) TensorMap {
    uint64_t opaque[16];
};

template <typename T>
struct EmbeddingParams {
    float* x;
    const int32_t* token_ids;
    const int32_t* positions;
    const T* wte;
    const T* wpe;
    int32_t tokens;
    int32_t channels;
};
static_assert(sizeof(EmbeddingParams<float>) == 48);
static_assert(offsetof(EmbeddingParams<float>, tokens) == 40);

template <typename T>
struct ResidualNormParams {
    float* x;
    const T* add;
    const float* parts;
    const T* bias;
    const T* weight;
    const T* beta;
    T* out;
    const int32_t* row_index;
    int32_t rows;
    int32_t channels;
    float eps;
    int32_t slices;
    int32_t slice_rows;
    int32_t rms;
    int32_t holds_next;
};
static_assert(sizeof(ResidualNormParams<float>) == 96);
static_assert(offsetof(ResidualNormParams<float>, rows) == 64);
static_assert(offsetof(ResidualNormParams<float>, rms) == 84);

template <typename T>
struct BiasActivationParams {
    T* y;
    const T* h;
    const T* bias;
    int32_t tokens;
    int32_t features;
    int32_t activation;
    int32_t gated;
};
static_assert(sizeof(BiasActivationParams<float>) == 40);
static_assert(offsetof(BiasActivationParams<float>, tokens) == 24);
static_assert(offsetof(BiasActivationParams<float>, gated) == 36);

template <typename T>
struct QkvTarget {
    T* q;
    T* kv;
    const int32_t* token_row;
    const int32_t* kv_index;
    const int32_t* page_table;
    const int32_t* positions;
    const float* rotary;
    int32_t query_heads;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t page_size;
    int32_t page_stride;
};
static_assert(sizeof(QkvTarget<float>) == 80);
static_assert(offsetof(QkvTarget<float>, rotary) == 48);
static_assert(offsetof(QkvTarget<float>, query_heads) == 56);
static_assert(offsetof(QkvTarget<float>, page_stride) == 72);

template <typename T>
struct LinearParams {
    const T* x;
    const T* w;
    const T* bias;
    T* y;
    float* residual;
    QkvTarget<T> qkv;
    int32_t m;
    int32_t n;
    int32_t k;
    int32_t activation;
    int32_t gated;
};
static_assert(sizeof(LinearParams<uint16_t>) == 144);
static_assert(offsetof(LinearParams<uint16_t>, qkv) == 40);
static_assert(offsetof(LinearParams<uint16_t>, m) == 120);
static_assert(offsetof(LinearParams<uint16_t>, gated) == 136);

template <typename T>
struct LogitsParams {
    const T* x;
    const T* w;
    float* logits;
    int32_t m;
    int32_t n;
    int32_t k;
};
static_assert(sizeof(LogitsParams<float>) == 40);
static_assert(offsetof(LogitsParams<float>, m) == 24);
static_assert(offsetof(LogitsParams<float>, k) == 32);

template <typename T>
struct BoxedLinearParams {
    TensorMap x;
    TensorMap w;
    LinearParams<T> linear;
};
static_assert(sizeof(BoxedLinearParams<uint16_t>) == 512);
static_assert(offsetof(BoxedLinearParams<uint16_t>, w) == 128);
static_assert(offsetof(BoxedLinearParams<uint16_t>, linear) == 256);

template <typename T>
struct KvAppendParams {
    const T* qkv;
    const T* bias;
    QkvTarget<T> to;
    int32_t tokens;
};
static_assert(sizeof(KvAppendParams<float>) == 104);
static_assert(offsetof(KvAppendParams<float>, to) == 16);
static_assert(offsetof(KvAppendParams<float>, tokens) == 96);

template <typename T>
struct AttentionPrefillParams {
    T* out;
    const T* q;
    const T* kv;
    const int32_t* page_table;
    const int32_t* query_start;
    const int32_t* kv_start;
    const int32_t* kv_len;
    int32_t rows;
    int32_t max_query_len;
    int32_t query_heads;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t page_size;
    int32_t page_stride;
    float scale;
    int32_t tokens;
    int32_t max_kv_len;
};
static_assert(sizeof(AttentionPrefillParams<float>) == 96);
static_assert(offsetof(AttentionPrefillParams<float>, rows) == 56);
static_assert(offsetof(AttentionPrefillParams<float>, tokens) == 88);

template <typename T>
struct AttentionPrefillWgmmaParams {
    TensorMap kv;
    TensorMap q;
    AttentionPrefillParams<T> attention;
    int32_t lines_at_once;
};
static_assert(sizeof(AttentionPrefillWgmmaParams<uint16_t>) == 384);
static_assert(offsetof(AttentionPrefillWgmmaParams<uint16_t>, attention) == 256);
static_assert(offsetof(AttentionPrefillWgmmaParams<uint16_t>, lines_at_once) == 352);

template <typename T>
struct AttentionDecodeParams {
    T* out;
    const T* q;
    const T* kv;
    const int32_t* page_table;
    const int32_t* kv_start;
    const int32_t* kv_len;
    int32_t rows;
    int32_t splits;
    int32_t chunk;
    int32_t query_heads;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t page_size;
    int32_t page_stride;
    float scale;
    int32_t warps;
};
static_assert(sizeof(AttentionDecodeParams<float>) == 88);
static_assert(offsetof(AttentionDecodeParams<float>, rows) == 48);
static_assert(offsetof(AttentionDecodeParams<float>, scale) == 80);

template <typename T>
struct HeadParams {
    TensorMap e;
    TensorMap x;
    float* logits;
    uint64_t* best;
    int32_t* out;
    int32_t* const* host_out;
    int32_t m;
    int32_t rows;
    int32_t vocab;
    int32_t k;
    int32_t stride;
};
static_assert(sizeof(HeadParams<uint16_t>) == 384);
static_assert(offsetof(HeadParams<uint16_t>, logits) == 256);
static_assert(offsetof(HeadParams<uint16_t>, m) == 288);
static_assert(offsetof(HeadParams<uint16_t>, stride) == 304);

struct ArgmaxParams {
    const float* logits;
    int32_t* out;
    int32_t* const* host_out;
    int32_t rows;
    int32_t vocab;
    int32_t stride;
};
static_assert(sizeof(ArgmaxParams) == 40);
static_assert(offsetof(ArgmaxParams, rows) == 24);
static_assert(offsetof(ArgmaxParams, stride) == 32);

struct PenaliseParams {
    float* logits;
    const int32_t* starts;
    const int32_t* ids;
    const float* penalties;
    int32_t rows;
    int32_t stride;
};
static_assert(sizeof(PenaliseParams) == 40);
static_assert(offsetof(PenaliseParams, penalties) == 24);
static_assert(offsetof(PenaliseParams, stride) == 36);

struct SampleParams {
    const float* logits;
    const float* temperature;
    const int32_t* top_k;
    const float* top_p;
    const uint64_t* seed;
    const int32_t* sample_index;
    int32_t* out;
    int32_t* const* host_out;
    int32_t rows;
    int32_t vocab;
    int32_t stride;
};
static_assert(sizeof(SampleParams) == 80);
static_assert(offsetof(SampleParams, rows) == 64);
static_assert(offsetof(SampleParams, stride) == 72);

// Which half of the host's buffers the next step has, and where the last one's tokens go.
struct Turn {
    int32_t half;
    int32_t* host_tokens;
};
static_assert(sizeof(Turn) == 16);
static_assert(offsetof(Turn, host_tokens) == 8);

struct AdvanceRowsParams {
    const int32_t* differences;
    Turn* turn;
    int32_t* host_tokens;
    int32_t* state;
    const int32_t* tokens;
    int32_t* token_ids;
    int32_t* kv_index;
    int32_t* positions;
    int32_t* token_row;
    int32_t* last_token;
    const int32_t* query_start;
    int32_t half;
    int32_t capacity;
    int32_t rows;
};
static_assert(sizeof(AdvanceRowsParams) == 104);
static_assert(offsetof(AdvanceRowsParams, query_start) == 80);
static_assert(offsetof(AdvanceRowsParams, rows) == 96);

template <typename T>
struct RandomFillParams {
    T* out;
    uint64_t seed;
    uint64_t count;
    float mean;
    float spread;
};
static_assert(sizeof(RandomFillParams<float>) == 32);
static_assert(offsetof(RandomFillParams<float>, mean) == 24);

// The residual stream as the kernel before left it, and where it goes.
template <typename T>
struct StreamParams {
    const float* x;
    const float* parts;
    const T* bias;
    float* x_out;
    const T* weight;
    const T* beta;
    int32_t slices;
    int32_t m;
    int32_t channels;
    float eps;
    int32_t rms;
};
static_assert(sizeof(StreamParams<uint16_t>) == 72);
static_assert(offsetof(StreamParams<uint16_t>, slices) == 48);
static_assert(offsetof(StreamParams<uint16_t>, rms) == 64);

template <typename T>
struct AttentionSublayerParams {
    StreamParams<T> stream;
    const T* w_qkv;
    const T* qkv_bias;
    const T* w_out;
    float* parts;
    T* kv;
    const int32_t* page_table;
    const int32_t* kv_start;
    const int32_t* kv_len;
    const float* rotary;
    int32_t query_heads;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t page_size;
    int32_t page_stride;
    float scale;
    int32_t first;
};
static_assert(sizeof(AttentionSublayerParams<uint16_t>) == 176);
static_assert(offsetof(AttentionSublayerParams<uint16_t>, w_qkv) == 72);
static_assert(offsetof(AttentionSublayerParams<uint16_t>, query_heads) == 144);
static_assert(offsetof(AttentionSublayerParams<uint16_t>, first) == 168);

template <typename T>
struct MlpSublayerParams {
    StreamParams<T> stream;
    const T* w_up;
    const T* up_bias;
    const T* w_down;
    float* parts;
    int32_t features;
    int32_t activation;
    int32_t gated;
};
static_assert(sizeof(MlpSublayerParams<uint16_t>) == 120);
static_assert(offsetof(MlpSublayerParams<uint16_t>, w_up) == 72);
static_assert(offsetof(MlpSublayerParams<uint16_t>, features) == 104);
static_assert(offsetof(MlpSublayerParams<uint16_t>, gated) == 112);
