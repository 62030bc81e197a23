// SuperSpike online (Zenke & Ganguli 2018): one hidden and one output layer of LIF neurons learn while they run.
//
//   presynaptic trace   q_j <- a q_j + s_j,   p_j <- b p_j + (1-b) q_j          (unit-weight membrane)
//   eligibility         r_ij <- a' r_ij + h(u_i - 1) p_j,   l_ij <- b' l_ij + (1-b') r_ij
//   output error        the same two filters of target - spike;  hidden error  e_h = B e_o
//   gradient            g_ij += e_i l_ij;  every `period` steps  v = max(gamma v, g^2), w += rate g / sqrt(v), g = 0
//
// (right-hand sides hold old values). No history is kept. Neurons run ahead for a block of steps, then every row of
// synapses is taken through that block while it lies in the first-level cache; rows are shared among threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "identity.h"
#include "parallel.h"

struct LayerDesc {
    int64_t nb_pre, nb_post;
    float *weight;                         // (post, pre)
    float *i, *u;                          // (post)
    float *q, *p;                          // (pre)
    float *r, *l, *g, *v;                  // (post, pre)
    float a, b, beta, rate;
};

struct RuleDesc {
    LayerDesc hidden, output;
    const float* feedback;                 // B (hidden, output); null: transposed output weights
    float *error_r, *error;                // (output)
    float error_a, error_b, gamma, epsilon;
    int64_t subtractive, learning, period, step, threads;
    double loss;                           // sum over steps and outputs of e^2 / 2
};

namespace {

constexpr int64_t BLOCK = 64;

struct Block {  // what the synapses of a layer need of the last steps
    std::vector<float> p, h, e;
    Block(const LayerDesc& y) : p(BLOCK * y.nb_pre), h(BLOCK * y.nb_post), e(BLOCK * y.nb_post) {}
};

// One step of a layer: spikes at u[t], surrogate factors, then i and u of the next step
void neurons(const LayerDesc& layer, bool subtractive, const uint8_t* pre, float* h, float* p, uint8_t* spikes) {
    const LayerDesc y = layer;  // a copy: what is stored below might change `layer`, for all that the compiler knows
    std::copy(y.p, y.p + y.nb_pre, p);
    for (int64_t n = 0; n < y.nb_post; n++) {
        float x = y.u[n] - 1, d = 1 + y.beta * std::abs(x);
        spikes[n] = x > 0, h[n] = 1 / (d * d);
    }
    for (int64_t n = 0; n < y.nb_post; n++) {
        float s = spikes[n], leak = subtractive ? y.b * y.u[n] - s : y.b * y.u[n] * (1 - s);
        y.u[n] = leak + (1 - y.b) * y.i[n], y.i[n] *= y.a;
    }
    for (int64_t j = 0; j < y.nb_pre; j++) y.p[j] = y.b * y.p[j] + (1 - y.b) * y.q[j], y.q[j] = y.a * y.q[j] + pre[j];
}

void arrive(const LayerDesc& y, const int32_t* units, int64_t nb) {
    for (int64_t n = 0; n < y.nb_post; n++) {
        const float* w = y.weight + n * y.nb_pre;
        float sum = 0;
        for (int64_t k = 0; k < nb; k++) sum += w[units[k]];
        y.i[n] += sum;
    }
}

// Rows [n0, n1) of synapses through S steps
void synapses(const LayerDesc& y, const RuleDesc& rule, const Block& block, int64_t S, int64_t n0, int64_t n1) {
    const float a = rule.error_a, b = rule.error_b, c = 1 - b;
    for (int64_t n = n0; n < n1; n++) {
        float *r = y.r + n * y.nb_pre, *l = y.l + n * y.nb_pre, *g = y.g + n * y.nb_pre;
        for (int64_t t = 0; t < S; t++) {
            const float* p = block.p.data() + t * y.nb_pre;
            const float h = block.h[t * y.nb_post + n], e = block.e[t * y.nb_post + n];
            for (int64_t j = 0; j < y.nb_pre; j++) {
                float next = b * l[j] + c * r[j];
                r[j] = a * r[j] + h * p[j], l[j] = next, g[j] += e * next;
            }
        }
    }
}

void update(const LayerDesc& layer, const RuleDesc& rule) {
    const LayerDesc y = layer;
    const float gamma = rule.gamma, epsilon = rule.epsilon;
    for (int64_t k = 0; k < y.nb_post * y.nb_pre; k++) {
        float g = y.g[k];
        y.v[k] = std::max(gamma * y.v[k], g * g);
        y.weight[k] += y.rate * g / (std::sqrt(y.v[k]) + epsilon);
        y.g[k] = 0;
    }
}

void list(const uint8_t* spikes, int64_t n, std::vector<int32_t>& units) {
    units.clear();
    for (int64_t k = 0; k < n; k++)
        if (spikes[k]) units.push_back(int32_t(k));
}

}  // namespace

extern "C" {

int64_t superspike_size() { return sizeof(RuleDesc); }

// Input (T, N_in) and target (T, N_out) as bytes; spikes of both layers are written where wanted
void superspike_run(RuleDesc* rule, int64_t T, const uint8_t* input, const uint8_t* target, uint8_t* hidden, uint8_t* output) {
    Call call;
    const Interrupted interrupted;
    const LayerDesc &H = rule->hidden, &O = rule->output;
    const bool subtractive = rule->subtractive;
    Block at_hidden(H), at_output(O);
    std::vector<uint8_t> s_hidden(H.nb_post), s_output(O.nb_post);
    std::vector<int32_t> units;
    for (int64_t t0 = 0; t0 < T;) {
        if (interrupted(BLOCK * (H.nb_pre * H.nb_post + O.nb_pre * O.nb_post))) return;
        int64_t left = rule->period - rule->step % rule->period, S = std::min({BLOCK, T - t0, left});
        for (int64_t t = 0; t < S; t++) {
            const uint8_t *x = input + (t0 + t) * H.nb_pre, *z = target + (t0 + t) * O.nb_post;
            neurons(H, subtractive, x, at_hidden.h.data() + t * H.nb_post, at_hidden.p.data() + t * H.nb_pre, s_hidden.data());
            list(x, H.nb_pre, units), arrive(H, units.data(), units.size());
            neurons(O, subtractive, s_hidden.data(), at_output.h.data() + t * O.nb_post, at_output.p.data() + t * O.nb_pre, s_output.data());
            list(s_hidden.data(), H.nb_post, units), arrive(O, units.data(), units.size());
            float* e = at_output.e.data() + t * O.nb_post;
            for (int64_t k = 0; k < O.nb_post; k++) {
                e[k] = rule->error[k] = rule->error_b * rule->error[k] + (1 - rule->error_b) * rule->error_r[k];
                rule->error_r[k] = rule->error_a * rule->error_r[k] + float(z[k]) - float(s_output[k]);
                rule->loss += 0.5 * double(e[k]) * e[k];
            }
            float* back = at_hidden.e.data() + t * H.nb_post;
            std::fill(back, back + H.nb_post, 0.0f);
            if (rule->feedback)
                for (int64_t n = 0; n < H.nb_post; n++)
                    for (int64_t k = 0; k < O.nb_post; k++) back[n] += rule->feedback[n * O.nb_post + k] * e[k];
            else
                for (int64_t k = 0; k < O.nb_post; k++)
                    for (int64_t n = 0; n < H.nb_post; n++) back[n] += O.weight[k * O.nb_pre + n] * e[k];
            if (hidden) std::copy(s_hidden.begin(), s_hidden.end(), hidden + (t0 + t) * H.nb_post);
            if (output) std::copy(s_output.begin(), s_output.end(), output + (t0 + t) * O.nb_post);
        }
        if (rule->learning) {
            int64_t nb = std::max<int64_t>(1, std::min(rule->threads, std::min(H.nb_post, O.nb_post)));
            share(nb, [&](int64_t k) {
                synapses(H, *rule, at_hidden, S, H.nb_post * k / nb, H.nb_post * (k + 1) / nb);
                synapses(O, *rule, at_output, S, O.nb_post * k / nb, O.nb_post * (k + 1) / nb);
            });
        }
        t0 += S, rule->step += S;
        if (rule->learning && rule->step % rule->period == 0) update(H, *rule), update(O, *rule);
    }
}
}
