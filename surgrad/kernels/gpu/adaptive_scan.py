"""`scan` and its adjoint for adaptive neurons: i, u and the adaptation current w, every constant one per neuron.

Tiles, arrays over time and the recurrent product are those of `surgrad.kernels.gpu.scan`. The three states, and the
five constants, are one array each: i, u, w, and decay a of i, b of u, d of w, couplings of w to membrane and spikes.

SPREAD is a recurrence whose spikes come back in shares after 1, 2, … steps, or not all of them: neuron j is heard as

    x[t] = kept sum_k shares[k] s[t-1-k],        I[t] = R x[t] + current,

a sum over what the program itself has stored. Its adjoint goes the same way back: g[t] = kept R^T dL/dI[t] is stored,
and dL/ds[t] has sum_k shares[k] g[t+1+k]. Neurons without adaptation are those whose couplings are 0.
"""

import triton
import triton.language as tl

from surgrad.kernels.gpu.scan import _place, _recurrent, _uniform, _weights


@triton.jit
def _constants(constants, unit, inside, NEURONS: tl.constexpr, UNIT_GAIN: tl.constexpr):
    """Decays a and b, gain c of the current, decay d, couplings to membrane and spikes, (ROWS, COLUMNS) each."""
    a = tl.load(constants + unit, mask=inside, other=0.0)
    b = tl.load(constants + NEURONS + unit, mask=inside, other=0.0)
    d = tl.load(constants + 2 * NEURONS + unit, mask=inside, other=0.0)
    to_u = tl.load(constants + 3 * NEURONS + unit, mask=inside, other=0.0)
    to_s = tl.load(constants + 4 * NEURONS + unit, mask=inside, other=0.0)
    c = 1.0 - b if UNIT_GAIN else tl.full(b.shape, 1.0, tl.float32)
    return a, b, c, d, to_u, to_s


@triton.jit
def _load(states, place, stride, inside):
    """i, u and w from an array (3, B, N)."""
    i = tl.load(states + place, mask=inside, other=0.0)
    u = tl.load(states + stride + place, mask=inside, other=0.0)
    return i, u, tl.load(states + 2 * stride + place, mask=inside, other=0.0)


@triton.jit
def _store(states, i, u, w, place, stride, inside):
    """i, u and w into an array (3, B, N)."""
    tl.store(states + place, i, mask=inside)
    tl.store(states + stride + place, u, mask=inside)
    tl.store(states + 2 * stride + place, w, mask=inside)


@triton.jit
def _adapted(u, s, w, d, to_u, to_s, SUBTRACTIVE: tl.constexpr):
    """v[t] and w[t+1] (equations in `surgrad.neurons.lif.AdaptiveLIF`)."""
    v = u - s if SUBTRACTIVE else u * (1.0 - s)
    return v, d * w + (1.0 - d) * (to_u * v + to_s * s)


@triton.jit
def _heard(spikes, shares, reach, stride, place, unit, kept, inside, NEURONS: tl.constexpr):
    """kept sum_k shares[k] spikes[-k] over ``reach`` rows that end with ``spikes``; a negative stride looks ahead."""
    x = tl.zeros(place.shape, tl.float32)
    for k in range(0, reach):
        share = tl.load(shares + k * NEURONS + unit, mask=inside, other=0.0)
        x += share * tl.load(spikes - k * stride + place, mask=inside, other=0).to(tl.float32)
    return kept * x


@triton.jit(do_not_specialize=["nb_samples", "nb_steps", "segment", "first_step", "layer", "nb_taps"])
def adaptive_scan(current, out, states, saved, constants, taps, shares, kept, heard, key, ids, nb_samples, nb_steps,
                  segment, first_step, layer, nb_taps, noise_p, noise_q,
                  RESET: tl.constexpr, SUBTRACTIVE: tl.constexpr, EULER: tl.constexpr, SPREAD: tl.constexpr,
                  THRESHOLD: tl.constexpr, STOCHASTIC: tl.constexpr, UNIT_GAIN: tl.constexpr, SAVE: tl.constexpr,
                  RECURRENT: tl.constexpr, HELD: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr, USED: tl.constexpr, BLOCK: tl.constexpr,
                  WIDTH: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, PAD_Y: tl.constexpr,
                  PAD_X: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Forward: s[t] from u[t], then w[t+1], u[t+1] and i[t+1].

    Args:
        current: (T, B, N) input current, without the recurrent part.
        out: (T + 1, B, N) uint8 whose row 0 holds the spikes before the first step and row t + 1 gets s[t].
        states: (3, B, N), read at the start and written at the end.
        saved: (T / segment, 3, B, N), states before every step that is a multiple of ``segment``.
        constants: (5, N).
        taps: recurrent weights (kernel, channels, channels).
        shares: (nb_taps, N); with SPREAD.
        kept: (B, N), what spikes of a neuron count in the recurrence; with SPREAD.
        heard: (T, B, N) gets x; with SPREAD.
        key: with ids, first_step and layer the address of the noise, as in `surgrad.kernels.gpu.scan.scan`.
    """
    sample, position, first, channel, inside, unit, place, stride = _place(
        nb_samples, CHANNELS, POSITIONS, ROWS, COLUMNS, USED
    )
    a, b, c, d, to_u, to_s = _constants(constants, unit, inside, CHANNELS * POSITIONS, UNIT_GAIN)
    i, u, w = _load(states, place, stride, inside)
    if STOCHASTIC:
        sample_id = tl.load(ids + sample, mask=sample < nb_samples, other=0).to(tl.uint32)
        key_words = tl.load(key + tl.zeros((1, 1), tl.int32))
    if SPREAD:
        counts = tl.load(kept + place, mask=inside, other=0.0)
    taps = _weights(taps, HELD, CHANNELS, ROWS, PRECISION)
    for t in tl.range(0, nb_steps, num_stages=STAGES):
        if SAVE:
            written = inside & (tl.zeros((1, 1), tl.int32) + t % segment == 0)  # a tensor in every interpreter
            _store(saved + (t // segment) * 3 * stride, i, u, w, place, stride, written)
        drive = tl.load(current + place, mask=inside, other=0.0)
        if SPREAD:
            x = _heard(
                out, shares, tl.minimum(nb_taps, t + 1), stride, place, unit, counts, inside, CHANNELS * POSITIONS
            )  # fmt: skip
            tl.store(heard + place, x, mask=inside)
            tl.debug_barrier()
        if RECURRENT:
            drive += _recurrent(
                heard if SPREAD else out, taps, sample, position, nb_samples, HELD, CHANNELS, POSITIONS, ROWS, COLUMNS,
                USED, BLOCK, WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, PAD_Y, PAD_X, 1, PRECISION,
            )  # fmt: skip
        threshold = 0.0
        if STOCHASTIC:
            r = _uniform(
                key_words, first_step + t, sample_id, layer, first, position, channel,
                CHANNELS, POSITIONS, ROWS, COLUMNS,
            )  # fmt: skip
            threshold = THRESHOLD(r, noise_p, noise_q)
        spike = u - 1.0 > threshold
        tl.store(out + stride + place, spike.to(tl.uint8), mask=inside)
        s = spike.to(tl.float32)
        _, w_next = _adapted(u, s, w, d, to_u, to_s, SUBTRACTIVE)
        u = RESET(u, i - (w if EULER else w_next), s, b, c)
        w = w_next
        i = a * i + drive
        if RECURRENT:
            tl.debug_barrier()
        current += stride
        out += stride
        if SPREAD:
            heard += stride
    _store(states, i, u, w, place, stride, inside)


@triton.jit
def _states_again(current, spikes, saved, scratch, nb_steps, stride, place, inside, a, b, c, d, to_u, to_s,
                  RESET: tl.constexpr, SUBTRACTIVE: tl.constexpr, EULER: tl.constexpr,
                  STAGES: tl.constexpr):  # fmt: skip
    """States before each of ``nb_steps`` steps, from the saved ones before the first, into the scratch."""
    i, u, w = _load(saved, place, stride, inside)
    for k in tl.range(0, nb_steps, num_stages=STAGES):
        _store(scratch + k * 3 * stride, i, u, w, place, stride, inside)
        s = tl.load(spikes + k * stride + place, mask=inside, other=0).to(tl.float32)
        _, w_next = _adapted(u, s, w, d, to_u, to_s, SUBTRACTIVE)
        u = RESET(u, i - (w if EULER else w_next), s, b, c)
        w = w_next
        i = a * i + tl.load(current + k * stride + place, mask=inside, other=0.0)
    # A thread may read what another one has stored.
    tl.debug_barrier()


@triton.jit
def _step_adjoint(g_i, g_u, g_w, g_s, u, i, w, s, a, b, c, d, to_u, to_s, surrogate_p, surrogate_q,
                  RESET_ADJOINT: tl.constexpr, SUBTRACTIVE: tl.constexpr, EULER: tl.constexpr, SURROGATE: tl.constexpr,
                  DIFF_RESET: tl.constexpr, UNIT_GAIN: tl.constexpr):  # fmt: skip
    """dL/di[t], dL/du[t], dL/dw[t], then what step t adds to the gradients of the five constants.

    From dL/di[t+1], dL/du[t+1], dL/dw[t+1], and dL/ds[t] from outside of the neuron.
    """
    v, w_next = _adapted(u, s, w, d, to_u, to_s, SUBTRACTIVE)
    d_u, d_x, d_r, d_b, d_c = RESET_ADJOINT(g_u, u, i - (w if EULER else w_next), s, b, c)
    if UNIT_GAIN:
        d_b -= d_c
    felt = 0.0 if EULER else d_x  # u[t+1] is driven by i[t] - w[t+1], or i[t] - w[t]
    g_w -= felt
    k = (1.0 - d) * g_w
    d_v = to_u * k
    if SUBTRACTIVE:
        d_u += d_v
        d_r -= d_v
    else:
        d_u += (1.0 - s) * d_v
        d_r -= u * d_v
    g_s += to_s * k
    if DIFF_RESET:
        g_s += d_r
    d_u += g_s * SURROGATE(u - 1.0, s, surrogate_p, surrogate_q)
    d_w = d * g_w - d_x if EULER else d * g_w
    return a * g_i + d_x, d_u, d_w, g_i * i, d_b, g_w * (w - (to_u * v + to_s * s)), v * k, s * k


@triton.jit(do_not_specialize=["nb_samples", "nb_steps", "segment", "nb_taps"])
def adaptive_scan_adjoint(current, spikes, upstream, drive_gradient, gradients, constants_gradient, saved, scratch,
                          constants, taps, shares, kept, heard_gradient, nb_samples, nb_steps, segment, nb_taps,
                          surrogate_p, surrogate_q,
                          RESET: tl.constexpr, RESET_ADJOINT: tl.constexpr, SUBTRACTIVE: tl.constexpr,
                          EULER: tl.constexpr, SURROGATE: tl.constexpr, DIFF_RESET: tl.constexpr, SPREAD: tl.constexpr,
                          UNIT_GAIN: tl.constexpr, RECURRENT: tl.constexpr, HELD: tl.constexpr, CHANNELS: tl.constexpr,
                          POSITIONS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, USED: tl.constexpr,
                          BLOCK: tl.constexpr, WIDTH: tl.constexpr, KERNEL_HEIGHT: tl.constexpr,
                          KERNEL_WIDTH: tl.constexpr, PAD_Y: tl.constexpr, PAD_X: tl.constexpr,
                          PRECISION: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Backward: dL/dI[t] = dL/di[t+1], segment by segment from the last, states computed again within a segment.

    Args:
        current: (T, B, N) the whole input current, recurrent part included.
        spikes: (T, B, N) uint8, s[t] of the forward pass.
        upstream: (T, B, N), dL/ds[t] from above.
        drive_gradient: (T + 1, B, N) gets dL/dI; row T holds the one of the step after the last.
        gradients: (3, B, N), by the states after the last step; gets those before the first.
        constants_gradient: (5, B, N), is written.
        saved: as `adaptive_scan` wrote it.
        scratch: (segment, 3, B, N).
        constants: (5, N).
        taps: recurrent weights transposed, (kernel, channels in, channels out).
        shares: as in `adaptive_scan`.
        kept: as in `adaptive_scan`.
        heard_gradient: (T + 1, B, N); rows 1 to T get g, with SPREAD.
    """
    sample, position, _, _, inside, unit, place, stride = _place(nb_samples, CHANNELS, POSITIONS, ROWS, COLUMNS, USED)
    a, b, c, d, to_u, to_s = _constants(constants, unit, inside, CHANNELS * POSITIONS, UNIT_GAIN)
    g_i, g_u, g_w = _load(gradients, place, stride, inside)
    zero = tl.zeros((ROWS, COLUMNS), tl.float32)
    g_a, g_b, g_d, g_to_u, g_to_s = zero, zero, zero, zero, zero
    if SPREAD:
        counts = tl.load(kept + place, mask=inside, other=0.0)
    taps = _weights(taps, HELD, CHANNELS, ROWS, PRECISION)
    nb_segments = (nb_steps + segment - 1) // segment
    for back in range(0, nb_segments):
        index = nb_segments - 1 - back
        start = index * segment
        length = tl.minimum(segment, nb_steps - start)
        _states_again(
            current + start * stride, spikes + start * stride, saved + index * 3 * stride, scratch, length, stride,
            place, inside, a, b, c, d, to_u, to_s, RESET, SUBTRACTIVE, EULER, STAGES,
        )  # fmt: skip
        for k in tl.range(0, length, num_stages=STAGES):
            t = start + length - 1 - k
            tl.store(drive_gradient + t * stride + place, g_i, mask=inside)
            i, u, w = _load(scratch + (length - 1 - k) * 3 * stride, place, stride, inside)
            s = tl.load(spikes + t * stride + place, mask=inside, other=0).to(tl.float32)
            g_s = tl.load(upstream + t * stride + place, mask=inside, other=0.0)
            if RECURRENT:
                g_x = _recurrent(
                    drive_gradient + (t + 1) * stride, taps, sample, position, nb_samples, HELD, CHANNELS, POSITIONS,
                    ROWS, COLUMNS, USED, BLOCK, WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, PAD_Y, PAD_X, -1, PRECISION,
                )  # fmt: skip
                if SPREAD:
                    tl.store(heard_gradient + (t + 1) * stride + place, counts * g_x, mask=inside)
                    tl.debug_barrier()
                    g_x = _heard(
                        heard_gradient + (t + 1) * stride, shares, tl.minimum(nb_taps, nb_steps - t), -stride, place,
                        unit, 1.0, inside, CHANNELS * POSITIONS,
                    )  # fmt: skip
                g_s += g_x
            g_i, g_u, g_w, d_a, d_b, d_d, d_to_u, d_to_s = _step_adjoint(
                g_i, g_u, g_w, g_s, u, i, w, s, a, b, c, d, to_u, to_s, surrogate_p, surrogate_q,
                RESET_ADJOINT, SUBTRACTIVE, EULER, SURROGATE, DIFF_RESET, UNIT_GAIN,
            )  # fmt: skip
            g_a, g_b, g_d = g_a + d_a, g_b + d_b, g_d + d_d
            g_to_u, g_to_s = g_to_u + d_to_u, g_to_s + d_to_s
            if RECURRENT:
                tl.debug_barrier()
        tl.debug_barrier()
    _store(gradients, g_i, g_u, g_w, place, stride, inside)
    _store(constants_gradient, g_a, g_b, g_d, place, stride, inside)
    tl.store(constants_gradient + 3 * stride + place, g_to_u, mask=inside)
    tl.store(constants_gradient + 4 * stride + place, g_to_s, mask=inside)
