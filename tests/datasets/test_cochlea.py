"""The cochlea: every stage against its equation, the whole chain against what the published converter drew."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from surgrad.datasets.encoding import cochlea as stages
from surgrad.datasets.encoding.audio import read_wav, resample
from surgrad.datasets.encoding.cochlea import BasilarMembrane, BushyCell, Cochlea, HairCell, ReleaseSites, prepare
from surgrad.errors import UserError

REFERENCE = Path(__file__).parents[1] / "reference" / "cochlea"
DT = 1 / 24000


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(3)
    t = np.arange(2400) / 48000
    return np.sin(2 * np.pi * 1000 * t) + 0.3 * rng.normal(size=len(t))


def test_phase_is_the_integral_of_the_wave_number():
    membrane = BasilarMembrane()
    omega = 2 * np.pi * np.geomspace(1, 24000, 9)[:, None]
    place = np.linspace(0, 3.5, 20001)
    g = membrane.wave_number(omega, place)
    numeric = scipy.integrate.cumulative_simpson(g, x=place, axis=1, initial=0) + 2 * g[:, :1] / 3
    np.testing.assert_allclose(membrane.phase(omega, place), numeric, rtol=1e-6)


def test_waves_decay_beyond_their_place():
    membrane = BasilarMembrane()
    omega = 2 * np.pi * np.geomspace(1, 24000, 40)[:, None]
    assert (membrane.wave_number(omega, membrane.places).imag > 0).all()


def velocity_as_published(audio, places):
    """The published formula term by term, Hankel functions unscaled, on the clip's own frequencies."""
    nb_steps = len(audio) // 2 + 1
    omega = 2 * np.pi * np.linspace(1.0, 24000.0, nb_steps)
    spectrum = np.fft.fft(audio)[:nb_steps]
    membrane = BasilarMembrane()
    g0 = membrane.wave_number(omega, 0.0)
    q = 2 * omega / 3.0 * np.sqrt(2 / (0.1 * 1e9))
    z = np.sqrt(2e9 / 0.1) * (1j * scipy.special.j0(q) + scipy.special.y0(q))
    z /= scipy.special.j1(q) - 1j * scipy.special.y1(q)
    p0 = np.sqrt(2 / 3.0) * scipy.special.hankel1(0, 2 * g0 / 3.0)
    rows = []
    for place in places:
        xi = 1e9 * np.exp(-3 * place) - 3500 - 0.05 * omega**2
        xi = xi - 1j * omega * 0.15 * np.sqrt(1e9 * 0.05) * np.exp(-1.5 * place)
        g = omega * np.sqrt(1.0 / (0.1 * xi))
        wave = membrane.phase(omega, np.array(place))
        v = 2 * omega / xi * np.sqrt(wave / g) * scipy.special.hankel1(0, wave) * z / p0
        rows.append(np.fft.ifft(v * spectrum).real)
    return np.array(rows)


@pytest.mark.parametrize("n", [2400, 2401, 2406, 7919])
def test_velocity_equals_the_published_filter_at_any_length(n):
    """One table serves every length: no padding, the same circular clip."""
    audio = np.random.default_rng(n).normal(size=n) * np.hanning(n)
    membrane = BasilarMembrane(nb_channels=36)
    velocity = np.concatenate([block for _, block in membrane.velocity(audio)])
    expected = velocity_as_published(audio, membrane.places[::5])
    assert velocity.shape == (36, n // 2 + 1)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(velocity[::5] - expected) / scale).max() < 1e-6


def test_tones_peak_further_from_the_base_the_lower_they_are():
    membrane = BasilarMembrane(nb_channels=64)
    t = np.arange(9600) / 48000
    peaks = []
    for frequency in (8000, 4000, 2000, 1000, 500):
        audio = np.sin(2 * np.pi * frequency * t) * np.hanning(len(t))
        velocity = np.concatenate([block for _, block in membrane.velocity(audio)])
        peaks.append(velocity.std(axis=1).argmax())
    assert (np.diff(peaks) > 3).all()


def test_resampling_keeps_a_tone():
    t8, t48 = np.arange(4000) / 8000, np.arange(24000) / 48000
    tone = resample(np.sin(2 * np.pi * 440 * t8), 8000, 48000)
    np.testing.assert_allclose(tone[500:-500], np.sin(2 * np.pi * 440 * t48)[500:-500], atol=2e-3)


def test_prepared_clip_has_the_published_level_under_its_window(clip):
    prepared = prepare(clip, 48000)
    window = np.hanning(len(clip))
    assert np.sqrt(np.mean((prepared[1:-1] / window[1:-1]) ** 2)) == pytest.approx(0.3, rel=1e-2)
    assert prepared[0] == prepared[-1] == 0
    np.testing.assert_allclose(prepare(50 * clip, 48000), prepared)


def test_hair_cell_rests_in_its_steady_state():
    rest = HairCell().rest()
    probability = stages.hair_cell(np.zeros((3, 2000)), DT, HairCell())
    np.testing.assert_allclose(probability, 50000 * rest[1] * DT, rtol=1e-9)


def test_hair_cell_converges_to_its_equations_with_first_order():
    a, b, g, y, l, r, x_r, m, h = astuple(HairCell())  # noqa: E741
    duration, level = 0.01, 20.0
    k = g * (level + a) / (level + a + b)

    def slope(_, pools):
        q, c, w = pools
        return [y * max(m - q, 0) - k * q + x_r * w, k * q - (l + r) * c, r * c - x_r * w]

    exact = scipy.integrate.solve_ivp(slope, (0, duration), HairCell().rest(), rtol=1e-10, atol=1e-14, method="LSODA")
    errors = []
    for dt in (DT / 4, DT / 8):
        drive = np.full((1, round(duration / dt)), level)
        content = stages.hair_cell(drive, dt, HairCell())[0, -1] / (h * dt)
        errors.append(abs(content - exact.y[1, -1]))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] < 1e-3 * exact.y[1, -1]


def test_hair_cell_adapts_to_a_lasting_drive():
    (probability,) = stages.hair_cell(np.full((1, 24000), 50.0), DT, HairCell())
    assert probability.max() > 3 * probability[-1] > 3 * 50000 * HairCell().rest()[1] * DT


@pytest.mark.parametrize("nb_channels", [1, 7, 8, 9, 16])
def test_channels_do_not_see_each_other(nb_channels):
    """However many rows run side by side, each is what it is alone; steps that do not fill a tile are there too."""
    velocity = 80 * np.random.default_rng(0).normal(size=(nb_channels, 131))
    together = stages.hair_cell(velocity, DT, HairCell())
    count = stages.releases(together, 5, ReleaseSites(), 24, first_channel=3)
    spikes = stages.bushy_cell(count, DT, BushyCell())
    for k in range(nb_channels):
        row = slice(k, k + 1)
        np.testing.assert_array_equal(stages.hair_cell(velocity[row], DT, HairCell()), together[row])
        np.testing.assert_array_equal(stages.releases(together[row], 5, ReleaseSites(), 24, 3 + k), count[row])
        np.testing.assert_array_equal(stages.bushy_cell(count[row], DT, BushyCell()), spikes[row])


def test_stages_refuse_what_is_no_block_of_channels():
    with pytest.raises(ValueError, match="channels, steps"):
        stages.hair_cell(np.zeros(100), DT, HairCell())


@pytest.mark.parametrize(("n", "p"), [(40, 0.003), (17, 0.2), (1, 0.5), (40, 0.9)])
def test_release_counts_invert_the_binomial(n, p):
    """Sites that are silent for one step only are all there in every step: j is the largest with u < P(K >= j)."""
    u = stages.uniform(2, 0, 300)
    (j,) = stages.releases(np.full((1, 300), p), 2, ReleaseSites(nb_sites=n), 1)
    assert (scipy.stats.binom.sf(j, n, p) <= u + 1e-12).all()
    assert ((j == 0) | (scipy.stats.binom.sf(j - 1, n, p) > u - 1e-12)).all()


def test_release_rate_is_that_of_sites_with_a_dead_time():
    """A site with release probability p that is back after s steps releases at a rate p / (1 + p (s - 1))."""
    p, nb_steps = 0.02, 200_000
    count = stages.releases(np.full((1, nb_steps), p), 7, ReleaseSites(), 24)[0, 1000:]
    rate = p / (1 + 23 * p)
    # variance of a renewal count per site: n var(interval) / mean(interval)^3
    sigma = np.sqrt(40 * len(count) * (1 - p) / p**2 * rate**3)
    assert abs(count.sum() - 40 * len(count) * rate) < 4 * sigma


def test_sites_are_silent_for_a_millisecond():
    (count,) = stages.releases(np.full((1, 2000), 0.3), 1, ReleaseSites(), 24)
    assert np.convolve(count, np.ones(24, int)).max() <= 40
    (saturated,) = stages.releases(np.ones((1, 49)), 1, ReleaseSites(), 24)
    np.testing.assert_array_equal(saturated, 40 * (np.arange(49) % 24 == 0))


def test_bushy_cell_needs_as_many_coincident_releases_as_its_kernel_says():
    cell = BushyCell()
    a, b = np.exp(-DT / cell.tau_syn), np.exp(-DT / cell.tau_mem)
    t = np.arange(1, 200)
    kernel = DT * cell.weight * (b**t - a**t) / (b - a)  # potential after one release
    needed = int(np.ceil(1 / kernel.max()))
    for releases, spikes in ((needed - 1, 0), (needed, 1)):
        count = np.zeros((1, 200), np.int64)
        count[0, 0] = releases
        assert stages.bushy_cell(count, DT, cell).sum() == spikes


def test_bushy_cell_is_refractory_for_a_millisecond():
    (spikes,) = stages.bushy_cell(np.full((1, 500), 1000), DT, BushyCell())
    np.testing.assert_array_equal(np.diff(np.flatnonzero(spikes)), 24)


def test_uniform_numbers_are_uniform_and_uncorrelated_between_channels():
    draws = np.array([stages.uniform(0, channel, 2000) for channel in range(4)])
    assert scipy.stats.kstest(draws.ravel(), "uniform").pvalue > 1e-4
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 4.5 / np.sqrt(2000)


def test_seed_fixes_the_spikes_on_any_thread(clip):
    cochlea = Cochlea(nb_channels=70)
    times, units = cochlea(clip, 48000, 11)
    assert times.dtype == np.float32
    assert units.dtype == np.uint16
    assert (np.diff(times) >= 0).all()
    assert units.max() < 70
    with ThreadPoolExecutor(3) as pool:
        for again in pool.map(lambda _: cochlea(clip, 48000, 11), range(3)):
            np.testing.assert_array_equal(again[0], times)
            np.testing.assert_array_equal(again[1], units)
    assert not np.array_equal(cochlea(clip, 48000, 12)[0], times)


def test_spikes_of_a_seed_are_those_of_the_embedded_data():
    """Converted clips are kept and reused by the settings that made them: another draw needs another `PIPELINE`."""
    audio, rate = read_wav(REFERENCE / "7_jackson_32.wav")
    times, units = Cochlea()(audio, rate, 0)
    steps = np.rint(times.astype(np.float64) / DT).astype("<i4")
    assert len(steps) == 6092
    drawn = hashlib.sha256(steps.tobytes() + units.astype("<u2").tobytes()).hexdigest()
    assert drawn == "63f19829649e6b7a57bc7212c81b07124ed563e0a937ba04247d77058ac73705"


def test_one_draw_of_the_published_converter_lies_within_ours():
    """Count, channels, per-channel and time histograms: the oracle's distance from our mean is one of our draws'."""
    audio, rate = read_wav(REFERENCE / "7_jackson_32.wav")
    with np.load(REFERENCE / "fsdd48k.wav.700ch.seed0.npz") as file:
        oracle = file["times"], file["units"]
    cochlea = Cochlea()
    blocks = list(cochlea.membrane.velocity(prepare(audio, rate)))
    draws = [cochlea.draw(blocks, seed) for seed in range(12)]
    edges = np.linspace(0, len(audio) / rate, 41)

    def numbers(times, units):
        return {
            "spikes": np.array([len(times)]),
            "active channels": np.array([len(np.unique(units))]),
            "20 channels": np.bincount(units.astype(int) // 20, minlength=35),
            "time": np.histogram(times, edges)[0],
        }

    ours, theirs = [numbers(*draw) for draw in draws], numbers(*oracle)
    for name, count in theirs.items():
        drawn = np.array([number[name] for number in ours])
        variance = np.maximum(drawn.var(axis=0, ddof=1), 1.0) * (1 + 1 / len(draws))
        z = (count - drawn.mean(axis=0)) / np.sqrt(variance)
        assert np.abs(z).max() < (3 if len(z) == 1 else 5), (name, z)
        assert len(z) == 1 or np.mean(z**2) < 2, (name, z)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(4800), "silent"),
        (np.ones((4800, 2)), "one dimension"),
        (np.full(4800, np.nan), "not finite"),
        (np.ones(100), "at least 0.02 s"),
        (np.zeros(0), "at least 0.02 s"),
    ],
)
def test_unusable_clips_are_named(audio, message):
    with pytest.raises(UserError, match=message):
        prepare(audio, 48000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cochlea(sample_rate=16000), "more than 18160 Hz"),
        (lambda: Cochlea(nb_channels=0), "1 to 65535"),
        (lambda: Cochlea(nb_channels=2)(np.ones(4800), 48000, -1), "seed=-1"),
        (lambda: Cochlea(nb_channels=2)(np.ones(4800), 0, 1), "rate=0"),
    ],
)
def test_impossible_settings_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
