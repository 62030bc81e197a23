// Runs the kernels on fixed networks and writes all results to stdout, in binary: what one instruction set computes can then be
// compared with another where no Python is at hand (an emulator, a sanitizer). Spikes come first, then numbers.
#include "lif.cpp"

#include "adaptive.cpp"
#include "delays.cpp"
#include "products.cpp"

#include <cmath>
#include <cstdio>
#include <deque>

namespace {

struct Random {  // the same numbers everywhere: a linear congruential generator and exact arithmetic
    uint64_t state = 1;
    float uniform() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return float(state >> 40) * 0x1p-24f;
    }
    float symmetric() { return 2 * uniform() - 1; }
};
Random draws;
std::deque<std::vector<float>> floats;  // kept until the end, where descriptors point to
std::deque<std::vector<uint64_t>> words;
std::vector<const std::vector<float>*> numbers;

float* array(size_t n, float scale = 0, float offset = 0) {
    floats.emplace_back(n + PADDING);
    for (size_t k = 0; k < n && scale; k++) floats.back()[k] = offset + scale * draws.symmetric();
    return floats.back().data();
}
float* result(size_t n) {
    float* p = array(n);
    numbers.push_back(&floats.back());
    return p;
}
uint64_t* spikes(size_t n) {
    words.emplace_back(n);
    return words.back().data();
}

struct Shape { int64_t channels, stride, width; };  // of the units of a layer, in one dimension

ConnectionDesc connect(Shape in, Shape out, int64_t kernel, int64_t step, int64_t pad, float scale) {
    ConnectionDesc d{1, in.channels, in.stride, 1, in.width, out.channels, out.stride, 1, out.width, 1, kernel, 1, step, 0, pad};
    const int64_t tap = in.stride * out.stride;
    float *forward = array(kernel * tap), *adjoint = array(kernel * tap);
    for (int64_t k = 0; k < kernel; k++)
        for (int64_t i = 0; i < in.channels; i++)
            for (int64_t o = 0; o < out.channels; o++) {
                const float w = scale * draws.symmetric();
                forward[k * tap + i * out.stride + o] = w;
                adjoint[Connection::adjoint_slot(k, kernel, step) * tap + o * in.stride + i] = w;
            }
    d.forward = forward, d.adjoint = adjoint;
    return d;
}

constexpr int64_t T = 70, B = 5, S = 32, THREADS = 2;

void fill(LayerDesc& d, Shape shape, int64_t index, int64_t reset, int64_t surrogate, int64_t noise, float beta) {
    const int64_t places = shape.width * shape.stride, blocks = (T + S - 1) / S;
    d.channels = shape.channels, d.positions = shape.width, d.stride = shape.stride, d.index = index;
    d.reset = reset, d.diff_reset = index % 2, d.surrogate = surrogate, d.noise = noise, d.unit_gain = 1, d.trained_tau = 1;
    d.surrogate_p[0] = beta, d.surrogate_p[1] = beta;
    d.noise_p[0] = 1 / 7.0f, d.noise_p[1] = 0.133f;
    d.a = array(places, 0.05f, 0.8f), d.b = array(places, 0.02f, 0.9f);
    d.bits = spikes(B * T * ((places + 63) / 64));
    d.checkpoints = array(blocks * B * 2 * places);
    d.counts = result(B * places), d.i_last = result(B * places), d.u_last = result(B * places);
    d.g_counts = array(B * places, 1);
    d.g_a = result(THREADS * places), d.g_b = result(THREADS * places);
    if (d.feedforward.exists) d.g_feedforward = result(THREADS * d.feedforward.kernel_w * d.feedforward.in_stride * shape.stride);
    if (d.recurrent.exists) d.g_recurrent = result(THREADS * d.recurrent.kernel_w * shape.stride * shape.stride);
}

// Two recurrent layers and a readout on random input spikes
void network(Shape in, Shape first, Shape second, int64_t kernel, int64_t step, int64_t noise, float beta, float scale) {
    std::vector<LayerDesc> layers(3);
    const int64_t loop = first.width > 1 ? 3 : 1, in_words = (in.width * in.stride + 63) / 64;
    layers[0].feedforward = connect(in, first, kernel, step, 0, scale);
    layers[0].recurrent = connect(first, first, loop, 1, loop / 2, 0.5f);
    fill(layers[0], first, 0, MULTIPLICATIVE, SUPERSPIKE, noise, beta);
    layers[1].feedforward = connect(first, second, first.width > 1 ? 3 : 1, 1, 0, scale);
    layers[1].recurrent = connect(second, second, loop, 1, loop / 2, 0.5f);
    fill(layers[1], second, 1, SUBTRACTIVE, SIGMOID_PRIME, noise, beta);
    const Shape out{5, PADDING, 1};
    layers[2].feedforward = connect(second, out, second.width, 1, 0, 0.3f);
    fill(layers[2], out, 2, MULTIPLICATIVE, SUPERSPIKE, STEP, beta);
    layers[2].is_readout = 1, layers[2].u0 = -1e-3f, layers[2].g_counts = layers[2].counts = nullptr;
    layers[2].out = result(T * B * out.channels);
    layers[2].g_out = array(T * B * out.channels, 1), layers[2].g_out_t = B * out.channels, layers[2].g_out_b = out.channels;
    uint64_t* input = spikes(B * T * in_words);
    for (int64_t k = 0; k < B * T; k++)
        for (int64_t n = 0; n < in.width * in.stride; n++)
            input[k * in_words + n / 64] |= uint64_t(draws.uniform() < 0.2f) << n % 64;
    int64_t ids[B] = {7, 8, 9, 10, 11};
    NetworkDesc net{};
    net.nb_layers = 3, net.T = T, net.B = B, net.delay = 1, net.block = S, net.group = first.width > 1 ? 1 : 4, net.threads = THREADS;
    net.in_words = in_words, net.input = input, net.ids = ids, net.seed = 5, net.draw = 2, net.dense_above = 0.15f;
    net.layers = layers.data();
    surgrad_forward(&net);
    surgrad_backward(&net);
}

// One layer driven by a current: plain (which streams) or adaptive
void driven(bool adapts, int64_t noise) {
    const Shape shape{adapts ? 20 : 64, adapts ? 32 : 64, 1};
    const int64_t n = shape.channels, places = shape.stride;
    LayerDesc d{};
    if (adapts) d.recurrent = connect(shape, shape, 1, 1, 0, 0.5f);
    fill(d, shape, 1, MULTIPLICATIVE_LEAK, ASYMPTOTIC, noise, 4);
    d.counts = nullptr, d.g_counts = nullptr;
    d.current = array(T * B * n, 4, 1), d.out = result(T * B * n), d.g_current = result(T * B * n);
    d.g_out = array(T * B * n, 1), d.g_out_t = B * n, d.g_out_b = n;
    if (adapts) d.checkpoints = array((T + S - 1) / S * B * 3 * places);
    int64_t ids[B] = {0, 1, 2, 3, 4};
    NetworkDesc net{};
    net.nb_layers = 1, net.T = T, net.B = B, net.block = S, net.group = 1, net.threads = THREADS, net.ids = ids, net.layers = &d;
    if (!adapts) return surgrad_forward(&net), surgrad_backward(&net);
    AdaptiveDesc desc{};
    desc.network = &net, desc.decay = array(places, 0.02f, 0.95f), desc.a = array(places, 0.2f), desc.b = array(places, 0.2f);
    desc.w_last = result(B * places);
    desc.g_decay = result(THREADS * places), desc.g_a = result(THREADS * places), desc.g_b = result(THREADS * places);
    adaptive_forward(&desc);
    adaptive_backward(&desc);
}

void delayed_synapses() {
    const int64_t nb_in = 9, nb_out = 16, length = T + 12, stride = length + 5 * 16;
    std::vector<int32_t> place(nb_in * nb_out), steps, units;
    std::vector<int64_t> offsets{0};
    for (int64_t j = 0; j < nb_in; j++)
        for (int64_t i = 0; i < nb_out; i++) place[j * nb_out + i] = int32_t(i * stride + int64_t(10 * draws.uniform()));
    for (int64_t b = 0; b < B; b++) {
        for (int64_t t = 0; t < T; t++)
            for (int64_t j = 0; j < nb_in; j++)
                if (draws.uniform() < 0.1f) steps.push_back(int32_t(t)), units.push_back(int32_t(j));
        offsets.push_back(int64_t(steps.size()));
    }
    SynapsesDesc d{nb_in, nb_out, array(nb_in * nb_out * 2, 1), place.data(), B, T, length, stride, 1, THREADS,
                   steps.data(), units.data(), offsets.data()};
    synapses_forward(&d, result(length * B * nb_out));
    synapses_backward(&d, array(length * B * nb_out, 1), result(THREADS * 2 * nb_in * nb_out), result(T * B * nb_in));
}

void products() {
    const int64_t M = 37, N = 48, K = 53;
    const float *a = array(M * K, 1), *b = array(K * N, 1);
    surgrad_product(M, N, K, a, K, 1, b, N, 1, result(M * N), THREADS);
    surgrad_product(M, N, K, a, 1, M, b, 1, K, result(M * N), THREADS);
}

}  // namespace

int main() {
    for (int64_t noise : {STEP, SIGMOID, EXPONENTIAL_NOISE}) {
        network({30, 30, 1}, {70, 80, 1}, {20, 32, 1}, 1, 1, noise, 10, 1.5f);
        network({2, 2, 40}, {12, 16, 12}, {20, 32, 10}, 7, 3, noise, 10, 1.5f);
        driven(false, noise);
        driven(true, noise);
    }
    delayed_synapses();
    products();
    int64_t total = 0;
    for (const auto& w : words) total += int64_t(w.size());
    std::fwrite(&total, sizeof total, 1, stdout);
    for (const auto& w : words) std::fwrite(w.data(), sizeof(uint64_t), w.size(), stdout);
    for (const auto* v : numbers) std::fwrite(v->data(), sizeof(float), v->size(), stdout);
    return 0;
}
