"""The neuron's equations as Triton functions: what `surgrad.neurons` says, on the device.

Each is elementwise and holds no loop; `surgrad.kernels.gpu.scan` loops over time. The registries at the end map
the library's dataclasses to these functions, so a kernel is compiled for one reset, one surrogate and one noise.
"""

import triton
import triton.language as tl

from surgrad.errors import UserError
from surgrad.neurons import escape_noise, surrogate

# Resets: u[t+1] from u[t], i[t] and r[t] = s[t]; operations in the order of `neurons/lif.py`, so that roundings agree.


@triton.jit
def multiplicative(u, i, r, b, c):
    return (b * u + c * i) * (1.0 - r)


@triton.jit
def multiplicative_leak(u, i, r, b, c):
    return b * u * (1.0 - r) + c * i


@triton.jit
def subtractive(u, i, r, b, c):
    return b * u + c * i - r


@triton.jit
def subtractive_leak(u, i, r, b, c):
    return b * (u - r) + c * i


# Their adjoints: from g = dL/du[t+1] to the derivatives with respect to u, i, r, b and c.


@triton.jit
def multiplicative_adjoint(g, u, i, r, b, c):
    g_kept = g * (1.0 - r)
    return b * g_kept, c * g_kept, -g * (b * u + c * i), g_kept * u, g_kept * i


@triton.jit
def multiplicative_leak_adjoint(g, u, i, r, b, c):
    g_kept = g * (1.0 - r)
    return b * g_kept, c * g, -g * b * u, g_kept * u, g * i


@triton.jit
def subtractive_adjoint(g, u, i, r, b, c):
    return b * g, c * g, -g, g * u, g * i


@triton.jit
def subtractive_leak_adjoint(g, u, i, r, b, c):
    return b * g, c * g, -g * b, g * (u - r), g * i


# Surrogates h(x, s) with up to two parameters p and q.


@triton.jit
def super_spike(x, s, p, q):
    y = p * tl.abs(x) + 1.0
    return 1.0 / (y * y)


@triton.jit
def asymptotic_super_spike(x, s, p, q):
    y = p * tl.abs(x) + 1.0
    return p / (y * y)


@triton.jit
def sigmoid_prime(x, s, p, q):
    # The even form never overflows: exp of a non-positive number.
    e = tl.exp(-tl.abs(p * x))
    return p * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def scaled_sigmoid_prime(x, s, p, q):
    e = tl.exp(-tl.abs(p * x))
    return e / ((1.0 + e) * (1.0 + e))


@triton.jit
def esser(x, s, p, q):
    return tl.maximum(1.0 - p * tl.abs(x), 0.0)


@triton.jit
def arctan(x, s, p, q):
    y = 1.5707963267948966 * p * x
    return 0.5 * p / (1.0 + y * y)


@triton.jit
def slayer(x, s, p, q):
    return 0.5 * q * p * tl.exp(-p * tl.abs(x))


@triton.jit
def exponential_slope(x, s, p, q):
    rate = p * tl.exp(tl.minimum(x / q, 80.0))
    return tl.where(rate < 1.0, rate, 0.0) / q


@triton.jit
def the_spike(x, s, p, q):
    return s


@triton.jit
def nothing(x, s, p, q):
    return x * 0.0


# Thresholds of the escape noises: a spike where x > threshold(r), r uniform in (0, 1). Divisions are rounded to
# nearest, as on the host, because a spike hangs on them.


@triton.jit
def step_threshold(r, p, q):
    return r * 0.0


@triton.jit
def sigmoid_threshold(r, p, q):
    return tl.div_rn(tl.log(tl.div_rn(r, 1.0 - r)), tl.zeros_like(r) + p)


@triton.jit
def exponential_threshold(r, p, q):
    return q * tl.log(tl.div_rn(r, tl.zeros_like(r) + p))


@triton.jit
def philox4x32(k0, k1, c0, c1, c2, c3):
    """Ten rounds of Philox4x32 on uint32 tiles, as `surgrad.kernels.philox.philox4x32`."""
    m0 = tl.full(c0.shape, 0xD2511F53, tl.uint32)
    m1 = tl.full(c0.shape, 0xCD9E8D57, tl.uint32)
    w0 = tl.full(k0.shape, 0x9E3779B9, tl.uint32)
    w1 = tl.full(k0.shape, 0xBB67AE85, tl.uint32)
    for _ in tl.static_range(10):
        high0 = tl.umulhi(m0, c0)
        low0 = tl.core.mul(m0, c0, sanitize_overflow=False)
        high1 = tl.umulhi(m1, c2)
        low1 = tl.core.mul(m1, c2, sanitize_overflow=False)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = tl.add(k0, w0, sanitize_overflow=False)
        k1 = tl.add(k1, w1, sanitize_overflow=False)
    return c0, c1, c2, c3


RESETS = {
    "multiplicative": (multiplicative, multiplicative_adjoint),
    "multiplicative_leak": (multiplicative_leak, multiplicative_leak_adjoint),
    "subtractive": (subtractive, subtractive_adjoint),
    "subtractive_leak": (subtractive_leak, subtractive_leak_adjoint),
}

# Class of the library -> (function, names of its parameters).
SURROGATES = {
    surrogate.SuperSpike: (super_spike, ("beta",)),
    surrogate.AsymptoticSuperSpike: (asymptotic_super_spike, ("beta",)),
    surrogate.SigmoidPrime: (sigmoid_prime, ("beta",)),
    surrogate.ScaledSigmoidPrime: (scaled_sigmoid_prime, ("beta",)),
    surrogate.Esser: (esser, ("beta",)),
    surrogate.Exponential: (exponential_slope, ("p0", "delta_u")),
    surrogate.MultilayerSpiker: (the_spike, ()),
    surrogate.TrueGradient: (nothing, ()),
    surrogate.ArcTan: (arctan, ("alpha",)),
    surrogate.Slayer: (slayer, ("alpha", "c")),
}

NOISES = {
    escape_noise.Step: (step_threshold, ()),
    escape_noise.Sigmoid: (sigmoid_threshold, ("beta",)),
    escape_noise.Exponential: (exponential_threshold, ("p0", "delta_u")),
}


def function_of(
    part: object, registry: dict[type, tuple[object, tuple[str, ...]]]
) -> tuple[object, tuple[float, float]]:
    """The Triton function of a surrogate or escape noise and its two parameters (0 where there are fewer).

    Raises: UserError for a class that has no Triton function.
    """
    if type(part) not in registry:
        allowed = ", ".join(known.__name__ for known in registry)
        raise UserError(f"{type(part).__name__} has no Triton function; allowed: {allowed}; or kernel='reference'")
    function, names = registry[type(part)]
    values = [float(getattr(part, name)) for name in names] + [0.0, 0.0]
    return function, (values[0], values[1])
