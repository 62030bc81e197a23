"""Audio to spikes: basilar membrane, hair cells and bushy cells of Cramer et al. (2020), IEEE TNNLS 33:2744.

The chain from sound to spikes of the Heidelberg data sets, one function per stage:

    clip -> `prepare` -> `BasilarMembrane.velocity` -> `hair_cell` -> `releases` -> `bushy_cell` -> (times, units)

Stages after the membrane see one channel at a time and step with dt = 2 / sample_rate. Every channel draws from its
own counter-based stream, so that a seed gives the same spikes on any number of threads or processes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np
import scipy.fft
import scipy.special

from surgrad.datasets.encoding.audio import resample
from surgrad.errors import UserError
from surgrad.kernels.cpu.build import compiled

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

        def antiderivative(c: np.ndarray) -> np.ndarray:
            y = np.exp(-self.alpha * c / 2)
            root = np.sqrt(self.impedance(omega, c))
            # R0^2 < 4 C0 m keeps the argument in the second quadrant: the principal logarithm does not jump
            return np.log((2j * d * root - 2 * d**2 - 1j * omega * self._damping_base * y) / y)

        scale = 2 * omega / self.alpha * np.sqrt(self.density / self.height)
        integral = scale * (antiderivative(place) - antiderivative(np.zeros(()))) / (1j * d)
        return integral + 2 * self.wave_number(omega, np.zeros(())) / self.alpha

    def log_transfer(self, omega: np.ndarray, place: np.ndarray) -> np.ndarray:
        """ln v(omega, c), v = (2 omega / xi) p(omega, c) Z(omega) / p(omega, 0), p = sqrt(G/g) H0^(1)(G).

        Args:
            omega: angular frequency, rad/s, > 0.
            place: cm; both broadcast against each other.

        Returns:
            complex logarithm, which neither under- nor overflows; its imaginary part is known up to multiples of 2 pi.
        """
        base = np.zeros(())

        def log_pressure(c: np.ndarray) -> np.ndarray:
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

        Args:
            audio: (n,) at `sample_rate`.

        Yields: (first channel, velocity (channels, nb_steps)) of consecutive blocks of channels.
        """
        nb_steps = len(audio) // 2 + 1
        half = scipy.fft.rfft(audio)
        log_omega = np.log(2 * np.pi * np.linspace(1.0, self.sample_rate / 2, nb_steps))
        cells, offset = _cells(log_omega, self._log_omega_grid)
        for first in range(0, self.nb_channels, _CHANNELS_AT_ONCE):
            table = self._log_transfer_table[first : first + _CHANNELS_AT_ONCE]
            # two real sequences are the two parts of one complex transform: half the work
            pairs = scipy.fft.ifft(_filter(table, cells, offset, half), axis=1, overwrite_x=True)
            velocity = pairs.view(np.float64).reshape(len(pairs), nb_steps, 2).transpose(0, 2, 1)
            yield first, velocity.reshape(-1, nb_steps)[: len(table)]

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


def _cells(x: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four-point interpolation on an even grid at increasing x (n,).

    Returns:
        first (len(grid) - 2,), the points of x in cell k are first[k]:first[k+1] and see grid[k:k+4]; and the place
        (n,) of every point in grid steps from the middle of its four.
    """
    position = (x - grid[0]) / (grid[1] - grid[0])
    cell = np.clip(np.floor(position).astype(np.int64) - 1, 0, len(grid) - 4)
    return np.searchsorted(cell, np.arange(len(grid) - 2)), position - cell - 1.5


def _filter(table: np.ndarray, cells: np.ndarray, offset: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """exp(table interpolated at every bin) * spectrum, as spectra of pairs of channels, (pairs, bins)."""
    nb_channels, nb_points = table.shape
    out = np.zeros(((nb_channels + 1) // 2, len(spectrum)), np.complex128)
    buffer, nb_bins = np.empty((2, len(spectrum))), len(spectrum)
    _call("filter", table, nb_points, cells, offset, spectrum, nb_channels, nb_bins, buffer, out)
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


def hair_cell(velocity: np.ndarray, dt: float, cell: HairCell) -> np.ndarray:
    """Release probability per step of each site, h c dt (Euler), (channels, steps), for the velocity x of each channel.

    k = g (x+a)/(x+a+b) where x+a > 0, else 0;
    dq/dt = y (m-q)^+ - k q + x_r w;   dc/dt = k q - (l+r) c;   dw/dt = r c - x_r w.
    """
    velocity = _rows(velocity, np.float64)
    probability = np.empty_like(velocity)
    _call("hair_cell", velocity, *velocity.shape, dt, np.array(cell.rest()), np.array(astuple(cell)), probability)
    return probability


def releases(
    probability: np.ndarray, seed: int, sites: ReleaseSites, silent_steps: int, first_channel: int = 0
) -> np.ndarray:
    """Releases per step (channels, steps) of independent sites; a site may release again `silent_steps` later.

    Sites are alike, so counting those that may release and drawing from a binomial is the same as following each.
    The draw inverts P(K >= j) with the `uniform` number of the seed, channel and step.
    """
    probability = _rows(probability, np.float64)
    count = np.empty(probability.shape, np.int32)
    _call("releases", probability, *count.shape, seed, first_channel, sites.nb_sites, silent_steps, count)
    return count


def uniform(seed: int, channel: int, nb_steps: int) -> np.ndarray:
    """Numbers in [0, 1) of a channel's steps (nb_steps,), addressed by (seed, channel, step)."""
    numbers = np.empty(nb_steps)
    _call("uniform", seed, channel, nb_steps, numbers)
    return numbers


def bushy_cell(count: np.ndarray, dt: float, cell: BushyCell) -> np.ndarray:
    """Where the cell of each channel spikes, (channels, steps), for the releases per step.

    dI/dt = -I/tau_syn + weight sum_k delta(t - t_k);   dU/dt = -U/tau_mem + I, each with its exact decay per step;
    U >= threshold: spike, and U stays 0 until the step `refractory` / dt later.
    """
    count = _rows(count, np.int32)
    spikes = np.empty(count.shape, np.bool_)
    silent_steps = round(cell.refractory / dt)
    constants = (cell.tau_mem, cell.tau_syn, silent_steps, cell.weight, cell.threshold)
    _call("bushy_cell", count, *count.shape, dt, *constants, spikes)
    return spikes


@functools.cache
def _library() -> ctypes.CDLL:
    library, pointer, integer, number = compiled("cochlea"), ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    seed = ctypes.c_uint64
    for name, arguments in {
        "filter": [pointer, integer, *[pointer] * 3, integer, integer, pointer, pointer],
        "hair_cell": [pointer, integer, integer, number, *[pointer] * 3],
        "uniform": [seed, integer, integer, pointer],
        "releases": [pointer, integer, integer, seed, *[integer] * 3, pointer],
        "bushy_cell": [pointer, integer, integer, number, number, number, integer, number, number, pointer],
    }.items():
        function = getattr(library, f"cochlea_{name}")
        function.argtypes, function.restype = arguments, None
    return library


def _rows(values: np.ndarray, dtype: type) -> np.ndarray:
    """(channels, steps) as compiled code reads it."""
    if np.ndim(values) != 2:
        raise ValueError(f"expected an array (channels, steps), found shape {np.shape(values)}")
    return np.ascontiguousarray(values, dtype)


def _call(name: str, *arguments: np.ndarray | float) -> None:
    """Calls a compiled stage; arrays are C-contiguous and of the type that it expects."""
    pointers = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
    getattr(_library(), f"cochlea_{name}")(*pointers)


def prepare(audio: np.ndarray, rate: int, sample_rate: int = 48000, rms: float = 0.3) -> np.ndarray:
    """Clip at `sample_rate`, scaled to a root mean square of `rms`, under a Hann window.

    Raises:
        UserError: for a clip that is not one-dimensional, too short, not finite or silent.
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

    Raises:
        UserError: for a sampling rate at which the hair cell's Euler step is unstable, or an unusable clip.
    """

    nb_channels: int = 700
    sample_rate: int = 48000  # Hz, of the clip in the membrane; the stages after it run at half of it
    hair_cell: HairCell = HairCell()
    sites: ReleaseSites = ReleaseSites()
    bushy_cell: BushyCell = BushyCell()

    def __post_init__(self) -> None:
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
        silent_steps = round(self.sites.silence / dt)
        steps: list[np.ndarray] = []
        units: list[np.ndarray] = []
        for first, velocity in blocks:
            probability = hair_cell(velocity, dt, self.hair_cell)
            count = releases(probability, seed, self.sites, silent_steps, first)
            channel, step = np.nonzero(bushy_cell(count, dt, self.bushy_cell))
            steps.append(step)
            units.append((channel + first).astype(np.uint16))
        all_steps = np.concatenate(steps)
        order = np.argsort(all_steps, kind="stable")
        return (all_steps[order] * dt).astype(np.float32), np.concatenate(units)[order]

    @cached_property
    def membrane(self) -> BasilarMembrane:
        """The membrane; its table of the transfer function is computed once, whatever the clips' lengths."""
        return BasilarMembrane(self.nb_channels, self.sample_rate)
