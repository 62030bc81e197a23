"""Two Triton kernels that step one layer through time: `scan` forward, `scan_adjoint` backward.

A program owns a tile (ROWS, COLUMNS) of neurons for all time steps and keeps their state in registers. Rows are
channels, columns are pairs (sample, position):

    element-wise   ROWS = 4, so a column is the four neighbouring neurons that share one block of random numbers;
    recurrent      ROWS covers all channels and the columns whole samples, so that a program sees all the spikes its
                   own neurons are driven by, and no program ever waits for another;
    of one sample  the same with one column, for small dense layers: sums in the place of products on tensor cores.

Weights of a small dense recurrence are loaded once, before the first step (HELD); others are read at every step.

Inside one step, a program reads back the spikes (forward) or the dL/dI (backward) it has just stored: they are its
own, so a barrier within the program orders them.

A dense layer of N units is N channels at one position. Arrays over time are (T, B, N) with N = channels * positions,
the position running fastest; the scan reads row t by adding t times B N to a scalar pointer in 64 bits.
"""

import triton
import triton.language as tl

from surgrad.kernels.gpu.neurons import philox4x32


@triton.jit
def _place(nb_samples, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
           USED: tl.constexpr):  # fmt: skip
    """Where the neurons of this program's tile (R, C) are.

    Returns:
        sample, position and first channel (1, C), channel (R, C), mask of the tile (R, C), index in (N) and in (B, N)
        (R, C), and the length of a row B N, in 64 bits.
    """
    BLOCKS: tl.constexpr = (CHANNELS + ROWS - 1) // ROWS
    local = tl.arange(0, COLUMNS)[None, :]
    column = tl.program_id(0) * USED + local
    position = column % POSITIONS
    first = (column // POSITIONS) % BLOCKS * ROWS
    sample = column // (POSITIONS * BLOCKS)
    channel = first + tl.arange(0, ROWS)[:, None]
    inside = (channel < CHANNELS) & (sample < nb_samples) & (local < USED)
    unit = channel * POSITIONS + position
    stride = tl.cast(nb_samples, tl.int64) * (CHANNELS * POSITIONS)
    return sample, position, first, channel, inside, unit, sample * (CHANNELS * POSITIONS) + unit, stride


@triton.jit
def _decays(a_decay, b_decay, unit, inside, UNIT_GAIN: tl.constexpr, PER_UNIT: tl.constexpr):
    """Decays a and b and the gain c of the current, (ROWS, COLUMNS) if PER_UNIT, else one number for all neurons."""
    a = tl.load(a_decay + unit, mask=inside, other=0.0) if PER_UNIT else tl.load(a_decay)
    b = tl.load(b_decay + unit, mask=inside, other=0.0) if PER_UNIT else tl.load(b_decay)
    c = 1.0 - b if UNIT_GAIN else 1.0
    return a, b, c


@triton.jit
def _uniform(key, step, sample_id, layer, first, position, channel,
             CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Numbers in (0, 1) at the address of `philox.py`: key (seed, draw), counter (q // 4, step, sample, layer)."""
    k0 = (key & 0xFFFFFFFF).to(tl.uint32)
    k1 = ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    if CHANNELS % 4 == 0 or POSITIONS == 1:
        # Four neighbouring rows are one block: draw it once, deal out its words.
        block = (position * CHANNELS + first) // 4 + tl.arange(0, ROWS // 4)[:, None]
        word = tl.arange(0, 4)[None, :, None]
    else:
        neuron = position * CHANNELS + channel
        block = neuron // 4
        word = neuron % 4
    c0 = block.to(tl.uint32)
    zero = tl.zeros_like(c0)
    c1 = zero + step.to(tl.uint32)
    c2 = zero + sample_id
    c3 = zero + layer.to(tl.uint32)
    w0, w1, w2, w3 = philox4x32(k0, k1, c0, c1, c2, c3)
    if CHANNELS % 4 == 0 or POSITIONS == 1:
        w0, w1, w2, w3 = w0[:, None, :], w1[:, None, :], w2[:, None, :], w3[:, None, :]
    bits = tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))
    return (tl.reshape(bits >> 9, (ROWS, COLUMNS)).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def _weights(taps, HELD: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr):
    """What `_recurrent` takes as ``taps``: with HELD, all weights of a dense matrix, (ROWS, ROWS), loaded once."""
    if HELD:
        row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :]
        taps = tl.load(taps + row * CHANNELS + column, mask=(row < CHANNELS) & (column < CHANNELS), other=0.0)
        if PRECISION == "bf16":
            taps = taps.to(tl.bfloat16).to(tl.float32)
    return taps


@triton.jit
def _recurrent_held(source, weights, used, sample, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """`_recurrent` with `_weights`: (out, in) for tensor cores; of one sample transposed, for a sum."""
    row = tl.arange(0, ROWS)[:, None]
    value = tl.load(source + sample * CHANNELS + row, mask=used & (row < CHANNELS), other=0).to(tl.float32)
    if PRECISION == "bf16":
        value = value.to(tl.bfloat16).to(tl.float32)
    if COLUMNS == 1:
        product = tl.sum(weights * value, axis=0)[:, None]
    else:
        product = tl.dot(weights, value, input_precision="tf32" if PRECISION == "bf16" else PRECISION)
    return product


@triton.jit
def _recurrent(source, taps, sample, position, nb_samples, HELD: tl.constexpr, CHANNELS: tl.constexpr,
               POSITIONS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, USED: tl.constexpr,
               BLOCK: tl.constexpr, WIDTH: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
               PAD_Y: tl.constexpr, PAD_X: tl.constexpr, SIGN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """sum_k taps[k] @ source shifted by k: the recurrent product of one step, (ROWS, COLUMNS).

    ``source`` is one row in time (B, N); taps are (kernel, channels out, channels in); SIGN is +1 for the
    convolution and -1, with taps transposed, for its adjoint. A dense matrix is one tap at one position; with
    HELD ``taps`` are what `_weights` has loaded before the first step.
    """
    used = (sample < nb_samples) & (tl.arange(0, COLUMNS)[None, :] < USED)
    if HELD:
        product = _recurrent_held(source, taps, used, sample, CHANNELS, ROWS, COLUMNS, PRECISION)
    else:
        HEIGHT: tl.constexpr = POSITIONS // WIDTH
        out = tl.arange(0, ROWS)[:, None]
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, KERNEL_HEIGHT * KERNEL_WIDTH * ROWS, BLOCK):
            tap = k // ROWS
            column = k % ROWS + tl.arange(0, BLOCK)[None, :]
            row = k % ROWS + tl.arange(0, BLOCK)[:, None]
            y = position // WIDTH + SIGN * (tap // KERNEL_WIDTH - PAD_Y)
            x = position % WIDTH + SIGN * (tap % KERNEL_WIDTH - PAD_X)
            there = used & (row < CHANNELS) & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
            known = (out < CHANNELS) & (column < CHANNELS)
            weight = tl.load(taps + (tap * CHANNELS + out) * CHANNELS + column, mask=known, other=0.0)
            seen = sample * (CHANNELS * POSITIONS) + row * POSITIONS + y * WIDTH + x
            value = tl.load(source + seen, mask=there, other=0).to(tl.float32)
            if PRECISION == "bf16":
                # Numbers of bf16 are exact in tf32, whose products are as good here and known to the interpreter.
                weight = weight.to(tl.bfloat16).to(tl.float32)
                value = value.to(tl.bfloat16).to(tl.float32)
            product = tl.dot(weight, value, product, input_precision="tf32" if PRECISION == "bf16" else PRECISION)
    return product


@triton.jit(do_not_specialize=["nb_samples", "nb_steps", "segment", "first_step", "layer"])
def scan(current, out, i_state, u_state, counts, i_saved, u_saved, a_decay, b_decay, taps, key, ids,
         nb_samples, nb_steps, segment, first_step, layer, noise_p, noise_q,
         RESET: tl.constexpr, THRESHOLD: tl.constexpr, SPIKING: tl.constexpr, STOCHASTIC: tl.constexpr,
         UNIT_GAIN: tl.constexpr, PER_UNIT: tl.constexpr, SAVE: tl.constexpr, RECURRENT: tl.constexpr,
         HELD: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr, ROWS: tl.constexpr,
         COLUMNS: tl.constexpr, USED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
         KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, PAD_Y: tl.constexpr, PAD_X: tl.constexpr,
         PRECISION: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Forward: s[t] from u[t], then i[t+1] and u[t+1] (equations in `surgrad.neurons.lif`).

    Args:
        current: (T, B, N) input current, without the recurrent part.
        out: spiking, (T + 1, B, N) uint8 whose row 0 holds the spikes before the first step and row t + 1 gets s[t];
            otherwise (T, B, N) float32 that gets u[t+1].
        i_state: (B, N), read at the start and written at the end.
        u_state: (B, N), read at the start and written at the end.
        counts: (B, N), read at the start and written at the end.
        i_saved: (T / segment, B, N), state before every step that is a multiple of ``segment``.
        u_saved: (T / segment, B, N), state before every step that is a multiple of ``segment``.
        a_decay: (N) if PER_UNIT, else (1).
        b_decay: (N) if PER_UNIT, else (1).
        taps: recurrent weights (kernel, channels, channels).
        key: one int64, seed | draw << 32; with ids, (B) int64, first_step and layer the address of the noise.
    """
    sample, position, first, channel, inside, unit, place, stride = _place(
        nb_samples, CHANNELS, POSITIONS, ROWS, COLUMNS, USED
    )
    a, b, c = _decays(a_decay, b_decay, unit, inside, UNIT_GAIN, PER_UNIT)
    i = tl.load(i_state + place, mask=inside, other=0.0)
    u = tl.load(u_state + place, mask=inside, other=0.0)
    s = tl.zeros((ROWS, COLUMNS), tl.float32)
    count = tl.zeros((ROWS, COLUMNS), tl.float32)
    if STOCHASTIC:
        sample_id = tl.load(ids + sample, mask=sample < nb_samples, other=0).to(tl.uint32)
        key_words = tl.load(key + tl.zeros((1, 1), tl.int32))
    taps = _weights(taps, HELD, CHANNELS, ROWS, PRECISION)
    for t in tl.range(0, nb_steps, num_stages=STAGES):
        if SAVE:
            saved = inside & (tl.zeros((1, 1), tl.int32) + t % segment == 0)  # a tensor in every interpreter
            tl.store(i_saved + (t // segment) * stride + place, i, mask=saved)
            tl.store(u_saved + (t // segment) * stride + place, u, mask=saved)
        drive = tl.load(current + place, mask=inside, other=0.0)
        if RECURRENT:
            drive += _recurrent(
                out, taps, sample, position, nb_samples, HELD, CHANNELS, POSITIONS, ROWS, COLUMNS, USED, BLOCK, WIDTH,
                KERNEL_HEIGHT, KERNEL_WIDTH, PAD_Y, PAD_X, 1, PRECISION,
            )  # fmt: skip
        if SPIKING:
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
            count += s
        u = RESET(u, i, s, b, c)
        i = a * i + drive
        if not SPIKING:
            tl.store(out + place, u, mask=inside)
        if RECURRENT:
            tl.debug_barrier()
        current += stride
        out += stride
    tl.store(i_state + place, i, mask=inside)
    tl.store(u_state + place, u, mask=inside)
    if SPIKING:
        tl.store(counts + place, tl.load(counts + place, mask=inside, other=0.0) + count, mask=inside)


@triton.jit
def _states_again(current, spikes, i_saved, u_saved, i_scratch, u_scratch, nb_steps, stride, place, inside, a, b, c,
                  RESET: tl.constexpr, SPIKING: tl.constexpr, CURRENTS: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """u and, if CURRENTS, i before each of ``nb_steps`` steps, from the saved ones before the first, into the scratch.

    Pointers are those of the first of these steps.
    """
    i = tl.load(i_saved + place, mask=inside, other=0.0)
    u = tl.load(u_saved + place, mask=inside, other=0.0)
    s = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in tl.range(0, nb_steps, num_stages=STAGES):
        if CURRENTS:
            tl.store(i_scratch + k * stride + place, i, mask=inside)
        tl.store(u_scratch + k * stride + place, u, mask=inside)
        if SPIKING:
            s = tl.load(spikes + k * stride + place, mask=inside, other=0).to(tl.float32)
        u = RESET(u, i, s, b, c)
        i = a * i + tl.load(current + k * stride + place, mask=inside, other=0.0)
    # A thread may read what another one has stored.
    tl.debug_barrier()


@triton.jit
def _step_adjoint(g_i, g_u, g_a, g_b, g_out, u, i, s, a, b, c, surrogate_p, surrogate_q,
                  RESET_ADJOINT: tl.constexpr, SURROGATE: tl.constexpr, SPIKING: tl.constexpr,
                  DIFF_RESET: tl.constexpr, UNIT_GAIN: tl.constexpr, DECAYS: tl.constexpr):  # fmt: skip
    """dL/di[t] and dL/du[t] from dL/di[t+1] and dL/du[t+1], g_out = dL/ds[t] or dL/dy[t], and the step's u, i and s.

    All are (ROWS, COLUMNS); what the step adds to dL/da and dL/db is added to g_a and g_b.
    """
    if not SPIKING:
        g_u += g_out
    d_u, d_i, d_r, d_b, d_c = RESET_ADJOINT(g_u, u, i, s, b, c)
    if DECAYS:
        g_a += g_i * i
        g_b += d_b - d_c if UNIT_GAIN else d_b
    if SPIKING:
        if DIFF_RESET:
            g_out += d_r
        d_u += g_out * SURROGATE(u - 1.0, s, surrogate_p, surrogate_q)
    return a * g_i + d_i, d_u, g_a, g_b


@triton.jit(do_not_specialize=["nb_samples", "nb_steps", "segment"])
def scan_adjoint(current, spikes, upstream, count_gradient, drive_gradient, i_gradient, u_gradient, a_gradient,
                 b_gradient, i_saved, u_saved, i_scratch, u_scratch, a_decay, b_decay, taps, nb_samples, nb_steps,
                 segment, surrogate_p, surrogate_q, RESET: tl.constexpr, RESET_ADJOINT: tl.constexpr,
                 SURROGATE: tl.constexpr, SPIKING: tl.constexpr, DIFF_RESET: tl.constexpr, UNIT_GAIN: tl.constexpr,
                 PER_UNIT: tl.constexpr, DECAYS: tl.constexpr, HAS_UPSTREAM: tl.constexpr, HAS_COUNTS: tl.constexpr,
                 RECURRENT: tl.constexpr, HELD: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
                 ROWS: tl.constexpr, COLUMNS: tl.constexpr, USED: tl.constexpr, BLOCK: tl.constexpr,
                 WIDTH: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, PAD_Y: tl.constexpr,
                 PAD_X: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Backward: dL/dI[t] = dL/di[t+1], segment by segment from the last, states computed again within a segment.

    Args:
        current: (T, B, N) the whole input current, recurrent part included.
        spikes: (T, B, N) uint8, s[t] of the forward pass (they are not decided again).
        upstream: (T, B, N), dL/ds[t] from above, or dL/dy[t] of a readout.
        count_gradient: (B, N), added to dL/ds at every step.
        drive_gradient: (T + 1, B, N) gets dL/dI; row T holds the one of the step after the last.
        i_gradient: (B, N) dL/di after the last step; gets the one before the first.
        u_gradient: (B, N) dL/du after the last step; gets the one before the first.
        a_gradient: (B, N), to which dL/da is added.
        b_gradient: (B, N), to which dL/db is added.
        i_saved: as `scan` wrote it.
        u_saved: as `scan` wrote it.
        i_scratch: (segment, B, N).
        u_scratch: (segment, B, N).
        taps: recurrent weights transposed, (kernel, channels in, channels out).
    """
    STATES: tl.constexpr = SPIKING or DECAYS
    CURRENTS: tl.constexpr = DECAYS or (SPIKING and DIFF_RESET)
    sample, position, _, _, inside, unit, place, stride = _place(nb_samples, CHANNELS, POSITIONS, ROWS, COLUMNS, USED)
    a, b, c = _decays(a_decay, b_decay, unit, inside, UNIT_GAIN, PER_UNIT)
    g_i = tl.load(i_gradient + place, mask=inside, other=0.0)
    g_u = tl.load(u_gradient + place, mask=inside, other=0.0)
    zero = tl.zeros((ROWS, COLUMNS), tl.float32)
    s, u, i = zero, zero, zero
    g_count = tl.load(count_gradient + place, mask=inside, other=0.0) if HAS_COUNTS else zero
    g_a = tl.load(a_gradient + place, mask=inside, other=0.0) if DECAYS else zero
    g_b = tl.load(b_gradient + place, mask=inside, other=0.0) if DECAYS else zero
    taps = _weights(taps, HELD, CHANNELS, ROWS, PRECISION)
    nb_segments = (nb_steps + segment - 1) // segment
    for back in range(0, nb_segments):
        index = nb_segments - 1 - back
        start = index * segment
        length = tl.minimum(segment, nb_steps - start)
        if STATES:
            _states_again(
                current + start * stride, spikes + start * stride if SPIKING else spikes, i_saved + index * stride,
                u_saved + index * stride, i_scratch, u_scratch, length, stride, place, inside, a, b, c,
                RESET, SPIKING, CURRENTS, ROWS, COLUMNS, STAGES,
            )  # fmt: skip
        for k in tl.range(0, length, num_stages=STAGES):
            t = start + length - 1 - k
            tl.store(drive_gradient + t * stride + place, g_i, mask=inside)
            if STATES:
                u = tl.load(u_scratch + (length - 1 - k) * stride + place, mask=inside, other=0.0)
            if CURRENTS:
                i = tl.load(i_scratch + (length - 1 - k) * stride + place, mask=inside, other=0.0)
            g_out = g_count
            if HAS_UPSTREAM:
                g_out += tl.load(upstream + t * stride + place, mask=inside, other=0.0)
            if SPIKING:
                s = tl.load(spikes + t * stride + place, mask=inside, other=0).to(tl.float32)
            if RECURRENT:
                g_out += _recurrent(
                    drive_gradient + (t + 1) * stride, taps, sample, position, nb_samples, HELD, CHANNELS, POSITIONS,
                    ROWS, COLUMNS, USED, BLOCK, WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, PAD_Y, PAD_X, -1, PRECISION,
                )  # fmt: skip
            g_i, g_u, g_a, g_b = _step_adjoint(
                g_i, g_u, g_a, g_b, g_out, u, i, s, a, b, c, surrogate_p, surrogate_q,
                RESET_ADJOINT, SURROGATE, SPIKING, DIFF_RESET, UNIT_GAIN, DECAYS,
            )  # fmt: skip
            if RECURRENT:
                tl.debug_barrier()
        tl.debug_barrier()
    tl.store(i_gradient + place, g_i, mask=inside)
    tl.store(u_gradient + place, g_u, mask=inside)
    if DECAYS:
        tl.store(a_gradient + place, g_a, mask=inside)
        tl.store(b_gradient + place, g_b, mask=inside)
