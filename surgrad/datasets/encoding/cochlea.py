"""Audio to spikes: basilar membrane, hair cells and bushy cells of Cramer et al. (2020), IEEE TNNLS 33:2744.

The chain from sound to spikes of the Heidelberg data sets, one function per stage:

    clip -> `prepare` -> `BasilarMembrane.velocity` -> `hair_cell` -> `releases` -> `bushy_cell` -> (times, units)

Stages after the membrane see one channel at a time and step with dt = 2 / sample_rate. Every channel draws from its
own counter-based stream, so that a seed gives the same spikes on any number of threads or processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import cached_property

import numba
import numpy as np
import scipy.fft
import scipy.special
from numba import float64, uint64

from surgrad.datasets.encoding.audio import resample
from surgrad.errors import UserError

_CHANNELS_AT_ONCE = 32  # membrane channels held in memory together
_SHORTEST = 0.02  # s, of a clip
_GRID_STEP = 2.5e-3  # of the transfer function's table, in ln(omega); relative error of the interpolation < 1e-6


@dataclass(frozen=True)
class BasilarMembrane:
    """Travelling wave of a passive cochlea in the frequency domain (Sieroka, Dosch & Rupp 2006), in CGS units."""

    nb_channels: int = 700
    sample_rate: int = 48000  # Hz
    length: float = 3.5  # cm
    density: float = 1.0  # rho
    height: float = 0.1  # h
    mass: float = 0.05  # m
    stiffness_base: float = 1e9  # C0
    stiffness_offset: float = 3500.0  # a0
    alpha: float = 3.0  # 1/cm
    damping_ratio: float = 0.15  # R0 / sqrt(C0 m)

    @property
    def places(self) -> np.ndarray:
        """Distance (cm) of each channel from the base, (nb_channels,)."""
        return np.linspace(0.0, self.length, self.nb_channels)

    def impedance(self, omega: np.ndarray, place: np.ndarray) -> np.ndarray:
        """xi(omega, c) = S(c) - m omega^2 - i omega R(c), S = C0 e^(-alpha c) - a0, R = R0 e^(-alpha c / 2)."""
        stiffness = self.stiffness_base * np.exp(-self.alpha * place) - self.stiffness_offset
        return stiffness - self.mass * omega**2 - 1j * omega * self._damping_base * np.exp(-self.alpha * place / 2)

    def wave_number(self, omega: np.ndarray, place: np.ndarray) -> np.ndarray:
        """g(omega, c) = omega sqrt(rho / (h xi)); the root with Im g > 0, a wave that decays beyond its place."""
        return omega * np.sqrt(self.density / (self.height * self.impedance(omega, place)))

    def phase(self, omega: np.ndarray, place: np.ndarray) -> np.ndarray:
        """G(omega, c) = int_0^c g(omega, c') dc' + 2 g(omega, 0) / alpha, in closed form.

        With y = e^(-alpha c / 2), xi = C0 y^2 - i omega R0 y - d^2 and d = sqrt(a0 + m omega^2), the integral is
        (2 omega / alpha) sqrt(rho/h) (L(y) - L(1)) / (i d),  L(y) = ln((2 i d sqrt(xi) - 2 d^2 - i omega R0 y) / y).
        """
        d = np.sqrt(self.stiffness_offset + self.mass * omega**2)

        def antiderivative(c):
            y = np.exp(-self.alpha * c / 2)
            root = np.sqrt(self.impedance(omega, c))
            # R0^2 < 4 C0 m keeps the argument in the second quadrant: the principal logarithm does not jump
            return np.log((2j * d * root - 2 * d**2 - 1j * omega * self._damping_base * y) / y)

        scale = 2 * omega / self.alpha * np.sqrt(self.density / self.height)
        integral = scale * (antiderivative(place) - antiderivative(np.zeros(()))) / (1j * d)
        return integral + 2 * self.wave_number(omega, np.zeros(())) / self.alpha

    def log_transfer(self, omega: np.ndarray, place: np.ndarray) -> np.ndarray:
        """ln v(omega, c), v = (2 omega / xi) p(omega, c) Z(omega) / p(omega, 0), p = sqrt(G/g) H0^(1)(G).

        Args: omega (rad/s, > 0) and place (cm), broadcast against each other. The logarithm neither under- nor
        overflows; its imaginary part is known up to multiples of 2 pi.
        """
        base = np.zeros(())

        def log_pressure(c):
            g, wave = self.wave_number(omega, c), self.phase(omega, c)
            return np.log(wave / g) / 2 + np.log(scipy.special.hankel1e(0, wave)) + 1j * wave

        q = 2 * omega / self.alpha * np.sqrt(2 / (self.height * self.stiffness_base))
        j0, j1, y0, y1 = (f(q) for f in (scipy.special.j0, scipy.special.j1, scipy.special.y0, scipy.special.y1))
        input_impedance = np.sqrt(2 * self.stiffness_base / self.height) * (1j * j0 + y0) / (j1 - 1j * y1)
        return (
            np.log(2 * omega / self.impedance(omega, place))
            + log_pressure(place)
            - log_pressure(base)
            + np.log(input_impedance)
        )

    def velocity(self, audio: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Velocity of the membrane, Re ifft(v(omega, c) F), F the first n//2 + 1 bins of the clip's FFT.

        The inverse transform of half a spectrum halves the rate: nb_steps = n//2 + 1 at sample_rate / 2. It is
        circular over the clip, as published; the clip's window makes the ends meet.

        Args: audio (n,) at `sample_rate`.
        Yields: (first channel, velocity (channels, nb_steps)) of consecutive blocks of channels.
        """
        nb_steps = len(audio) // 2 + 1
        half = scipy.fft.rfft(audio)
        log_omega = np.log(2 * np.pi * np.linspace(1.0, self.sample_rate / 2, nb_steps))
        cell, weights = _cubic_weights(log_omega, self._log_omega_grid)
        mirror = -np.arange(nb_steps // 2 + 1) % nb_steps
        for first in range(0, self.nb_channels, _CHANNELS_AT_ONCE):
            table = self._log_transfer_table[first : first + _CHANNELS_AT_ONCE]
            response = _filter(table, cell, weights, half)
            # the real part of a sequence is the transform of the Hermitian part of its spectrum: half the work
            hermitian = (response[:, : len(mirror)] + response[:, mirror].conj()) / 2
            yield first, scipy.fft.irfft(hermitian, n=nb_steps, axis=1)

    @property
    def _damping_base(self) -> float:
        return self.damping_ratio * np.sqrt(self.stiffness_base * self.mass)

    @cached_property
    def _log_omega_grid(self) -> np.ndarray:
        low, high = np.log(2 * np.pi), np.log(np.pi * self.sample_rate)
        return low + (high - low) * np.linspace(0.0, 1.0, int(np.ceil((high - low) / _GRID_STEP)) + 1)

    @cached_property
    def _log_transfer_table(self) -> np.ndarray:
        """ln v on the grid, (nb_channels, grid), its phase unwrapped: smooth, so one table serves every length."""
        table = self.log_transfer(np.exp(self._log_omega_grid)[None, :], self.places[:, None])
        table.imag = np.unwrap(table.imag, axis=1)
        return table


def _cubic_weights(x: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four-point Lagrange interpolation on an even grid: index (n,) of the first point and weights (n, 4)."""
    position = (x - grid[0]) / (grid[1] - grid[0])
    first = np.clip(np.floor(position).astype(np.int64) - 1, 0, len(grid) - 4)
    t = position - first
    weights = np.stack(
        [
            -(t - 1) * (t - 2) * (t - 3) / 6,
            t * (t - 2) * (t - 3) / 2,
            -t * (t - 1) * (t - 3) / 2,
            t * (t - 1) * (t - 2) / 6,
        ],
        axis=1,
    )
    return first, weights


@numba.njit(cache=True, nogil=True)
def _filter(table, cell, weights, spectrum):
    """exp(table interpolated at every bin) * spectrum, (channels, bins)."""
    nb_channels, nb_bins = table.shape[0], len(spectrum)
    out = np.zeros((nb_channels, nb_bins), np.complex128)
    for k in range(nb_channels):
        for j in range(nb_bins):
            row, w = table[k, cell[j] : cell[j] + 4], weights[j]
            log_gain = w[0] * row[0] + w[1] * row[1] + w[2] * row[2] + w[3] * row[3]
            out[k, j] = np.exp(log_gain) * spectrum[j]
    return out


@dataclass(frozen=True)
class HairCell:
    """Transmitter of an inner hair cell (Meddis 1986, 1988): rates in 1/s, pools in units of m."""

    a: float = 5.0  # A: offset of the permeability
    b: float = 300.0  # B: half saturation
    g: float = 2000.0  # largest permeability
    y: float = 5.05  # replenishment
    l: float = 2500.0  # noqa: E741  loss from the cleft
    r: float = 6580.0  # re-uptake from the cleft
    x: float = 66.3  # reprocessing
    m: float = 1.0  # largest free pool
    h: float = 50000.0  # release per content of the cleft

    def rest(self) -> tuple[float, float, float]:
        """Pools (q, c, w) that do not move at x = 0."""
        k = self.g * self.a / (self.a + self.b)
        c = self.m * self.y * k / (self.l * k + self.y * (self.l + self.r))
        return c * (self.l + self.r) / k, c, c * self.r / self.x


@dataclass(frozen=True)
class ReleaseSites:
    """Independent sites of one hair cell; a site may release again `silence` after its last release."""

    nb_sites: int = 40
    silence: float = 1e-3  # s


@dataclass(frozen=True)
class BushyCell:
    """Leaky integrate-and-fire cell that detects coincident releases of one hair cell."""

    tau_mem: float = 1e-3  # s
    tau_syn: float = 0.5e-3  # s
    refractory: float = 1e-3  # s
    weight: float = 13000.0 / 40  # 1/s per release
    threshold: float = 1.0


@numba.njit(cache=True, nogil=True)
def hair_cell(x, dt, rest, a, b, g, y, l, r, x_r, m, h):  # noqa: E741
    """Release probability per step of each site, h c dt (Euler), for the velocity x (n,) of one channel.

    k = g (x+a)/(x+a+b) where x+a > 0, else 0;
    dq/dt = y (m-q)^+ - k q + x_r w;   dc/dt = k q - (l+r) c;   dw/dt = r c - x_r w.
    """
    q, c, w = rest
    probability = np.empty(len(x))
    for t in range(len(x)):
        drive = x[t] + a
        k = g * drive / (drive + b) if drive > 0 else 0.0
        eject = k * q
        dq = y * max(m - q, 0.0) - eject + x_r * w
        dc = eject - (l + r) * c
        dw = r * c - x_r * w
        q += dt * dq
        c += dt * dc
        w += dt * dw
        probability[t] = min(max(h * c * dt, 0.0), 1.0)
    return probability


@numba.njit(cache=True, nogil=True)
def releases(probability, key, nb_sites, silent_steps):
    """Releases per step (n,) of `nb_sites` independent sites; a site may release again `silent_steps` later.

    Sites are alike, so counting those that may release and drawing from a binomial is the same as following each.
    The draw inverts P(K >= j) with the uniform number of (key, step); a step's bound P(K >= 1) <= available * p
    settles most steps without a power.
    """
    count = np.zeros(len(probability), np.int64)
    available = nb_sites
    for t in range(len(probability)):
        if t >= silent_steps:
            available += count[t - silent_steps]
        p, u = probability[t], _uniform(key, t)
        if u < available * p:
            count[t] = _binomial_upper(u, available, p)
            available -= count[t]
    return count


@numba.njit(cache=True, nogil=True)
def bushy_cell(count, dt, tau_mem, tau_syn, refractory_steps, weight, threshold):
    """Steps at which the cell spikes.

    dI/dt = -I/tau_syn + weight sum_k delta(t - t_k);   dU/dt = -U/tau_mem + I, each with its exact decay per step;
    U >= threshold: spike, and U stays 0 until the step `refractory_steps` later.
    """
    decay_syn, decay_mem = np.exp(-dt / tau_syn), np.exp(-dt / tau_mem)
    current, u, ready = 0.0, 0.0, 0
    steps = np.empty(len(count), np.int64)
    nb_spikes = 0
    for t in range(len(count)):
        current = decay_syn * current + weight * count[t]
        if t < ready:
            continue
        u = decay_mem * u + dt * current
        if u >= threshold:
            steps[nb_spikes] = t
            nb_spikes += 1
            u, ready = 0.0, t + refractory_steps
    return steps[:nb_spikes]


@numba.njit(inline="always")
def _mix(z):
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): a bijection of 64 bits that scatters neighbours."""
    z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
    return z ^ (z >> uint64(31))


@numba.njit(inline="always")
def _uniform(key, counter):
    """Number in [0, 1) addressed by (key, counter), 53 bits."""
    bits = _mix(key + uint64(counter + 1) * uint64(0x9E3779B97F4A7C15))
    return float64(bits >> uint64(11)) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True, nogil=True)
def _binomial_upper(u, n, p):
    """Largest j with u < P(K >= j), K ~ Binomial(n, p)."""
    if p >= 1.0:
        return n
    term = (1.0 - p) ** n
    odds, above, j = p / (1.0 - p), 1.0 - term, 0
    while j < n and u < above:
        j += 1
        term *= odds * (n - j + 1) / j
        above -= term
    return j


@numba.njit(cache=True, nogil=True)
def _channel_key(seed, channel):
    """Start of a channel's stream of random numbers."""
    return _mix(_mix(seed) + uint64(channel + 1) * uint64(0xD1342543DE82EF95))


@numba.njit(cache=True, nogil=True)
def _spikes(velocity, first_channel, seed, dt, rest, hair, sites, bushy):
    """Stages after the membrane for a block of channels: steps and channels of the spikes, channel by channel."""
    nb_sites, silent_steps = sites
    steps = [np.empty(0, np.int64) for _ in range(len(velocity))]
    for k in range(len(velocity)):
        key = _channel_key(seed, first_channel + k)
        count = releases(hair_cell(velocity[k], dt, rest, *hair), key, nb_sites, silent_steps)
        steps[k] = bushy_cell(count, dt, *bushy)
    return steps


def prepare(audio: np.ndarray, rate: int, sample_rate: int = 48000, rms: float = 0.3) -> np.ndarray:
    """Clip at `sample_rate`, scaled to a root mean square of `rms`, under a Hann window.

    Raises: UserError for a clip that is not one-dimensional, too short, not finite or silent.
    """
    audio = np.asarray(audio, dtype=np.float64)
    if audio.ndim != 1:
        raise UserError(f"audio has shape {audio.shape}: expected one dimension (mix the channels of a stereo clip)")
    if not np.isfinite(audio).all():
        raise UserError("audio holds values that are not finite")
    audio = resample(audio, rate, sample_rate)
    if len(audio) < _SHORTEST * sample_rate:
        raise UserError(f"audio lasts {len(audio) / sample_rate:.4f} s: at least {_SHORTEST} s are needed")
    power = np.sqrt(np.mean(audio**2))
    if power == 0:
        raise UserError("audio is silent: nothing to scale")
    return audio * (rms / power) * np.hanning(len(audio))


@dataclass(frozen=True)
class Cochlea:
    """Audio to spikes of bushy cells along the basilar membrane (Cramer et al. 2020, appendix).

    Calling it: `Cochlea()(audio, rate, seed)` with audio (n,) in any unit at `rate` (Hz) returns times (s, float32)
    and units (uint16, 0 = base, high frequencies), sorted by time. The same seed gives the same spikes.

    Raises: UserError for a sampling rate at which the hair cell's Euler step is unstable, or an unusable clip.
    """

    nb_channels: int = 700
    sample_rate: int = 48000  # Hz, of the clip in the membrane; the stages after it run at half of it
    hair_cell: HairCell = HairCell()
    sites: ReleaseSites = ReleaseSites()
    bushy_cell: BushyCell = BushyCell()

    def __post_init__(self):
        if not 1 <= self.nb_channels <= 65535:
            raise UserError(f"nb_channels={self.nb_channels}: allowed are 1 to 65535")
        lowest = 2 * (self.hair_cell.l + self.hair_cell.r)
        if not self.sample_rate > lowest:
            raise UserError(
                f"sample_rate={self.sample_rate} Hz: the hair cell's Euler step needs more than {lowest:.0f} Hz"
            )

    def __call__(self, audio: np.ndarray, rate: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self.draw(self.membrane.velocity(prepare(audio, rate, self.sample_rate)), seed)

    def draw(self, blocks: Iterable[tuple[int, np.ndarray]], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """One draw of times and units from blocks of membrane velocity, as `BasilarMembrane.velocity` yields them."""
        if not 0 <= seed < 2**64:
            raise UserError(f"seed={seed}: allowed are 0 to 2**64 - 1")
        dt = 2.0 / self.sample_rate
        hair, rest = astuple(self.hair_cell), self.hair_cell.rest()
        sites = (self.sites.nb_sites, round(self.sites.silence / dt))
        cell = self.bushy_cell
        bushy = (cell.tau_mem, cell.tau_syn, round(cell.refractory / dt), cell.weight, cell.threshold)
        trains = []
        for first, velocity in blocks:
            trains += _spikes(velocity, first, np.uint64(seed), dt, rest, hair, sites, bushy)
        steps = np.concatenate(trains)
        units = np.repeat(np.arange(len(trains), dtype=np.uint16), [len(train) for train in trains])
        order = np.argsort(steps, kind="stable")
        return (steps[order] * dt).astype(np.float32), units[order]

    @cached_property
    def membrane(self) -> BasilarMembrane:
        """The membrane; its table of the transfer function is computed once, whatever the clips' lengths."""
        return BasilarMembrane(self.nb_channels, self.sample_rate)
