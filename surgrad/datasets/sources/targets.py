"""Target spike trains from pictures and from event files: rows are neurons, columns are time steps."""

import csv
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surgrad.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
HDF5_SUFFIXES = (".h5", ".hdf5")
POLARITIES = ("dark", "light")
MAX_PIXELS = MAX_BINS = 1 << 26  # of a picture, of a target: bounds the memory before anything is decoded
MAX_EVENTS = 1 << 26
# What Pillow was seen to raise on pictures with flipped bytes or a missing end.
_PICTURE_ERRORS = (OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, struct.error, zlib.error)
_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601


@dataclass(frozen=True)
class Target:
    """Spikes to be matched.

    Args:
        spikes: (T, N) uint8, 0/1.
        dt: step in s.
        name: for messages.
    """

    spikes: Tensor
    dt: float
    name: str

    @property
    def rate(self) -> float:
        """Mean rate per neuron in Hz."""
        return float(self.spikes.float().mean()) / self.dt


def load_target(
    path: str | Path,
    *,
    dt: float = 1e-3,
    nb_outputs: int | None = None,
    nb_steps: int | None = None,
    out_prob: float = 0.85,
    polarity: str = "dark",
    duration: float | None = None,
    bin_dt: float | None = None,
) -> Target:
    """A target from a picture (.png, …) or an event file (.h5, .hdf5, .csv), told apart by the suffix.

    Args:
        path: of the file.
        dt: simulation step in s.
        nb_outputs: N and T.
        nb_steps: None takes them from the file, a number is checked against it.
        out_prob: of a picture, see `image_target`.
        polarity: of a picture, see `image_target`.
        duration: s; if given, dt becomes duration / T.
        bin_dt: width in s of an event file's bins, one per step; dt if None (10 ms bins played at dt = 1 ms are
            spike trains ten times faster).

    Raises:
        UserError: for a missing or unreadable file, an empty or full target, or sizes that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"dataset.data_path={path}: there is no such file")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        spikes = image_target(path, out_prob=out_prob, polarity=polarity)
    elif path.suffix.lower() in (*HDF5_SUFFIXES, ".csv"):
        times, units = read_events(path)
        spikes = bin_events(times, units, dt if bin_dt is None else bin_dt, nb_outputs, nb_steps, name=str(path))
    else:
        allowed = ", ".join((*IMAGE_SUFFIXES, *HDF5_SUFFIXES, ".csv"))
        raise UserError(f"dataset.data_path={path}: unknown kind of file; allowed: {allowed}")
    steps, units = spikes.shape
    if nb_outputs is not None and units != nb_outputs:
        raise UserError(
            f"{path} has {units} rows, but nb_outputs={nb_outputs}; set dataset.nb_outputs={units} or resize it"
        )
    if nb_steps is not None and steps != nb_steps:
        raise UserError(
            f"{path} has {steps} columns, but nb_steps={nb_steps}; set dataset.nb_steps={steps} or resize it"
        )
    if not spikes.any():
        hint = f"no pixel passes out_prob={out_prob} with polarity={polarity}" if _is_image(path) else "no event"
        raise UserError(f"{path} is a target without a spike: {hint}")
    if spikes.all():
        hint = f" (out_prob={out_prob}, polarity={polarity})" if _is_image(path) else ""
        raise UserError(f"{path} is a target with a spike in every step of every neuron{hint}: nothing to learn")
    if duration is not None and not duration > 0:
        raise UserError(f"dataset.duration={duration} s must be positive")
    return Target(torch.from_numpy(spikes), dt if duration is None else duration / steps, str(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


# ---------------------------------------------------------------- pictures
def image_target(path: str | Path, *, out_prob: float = 0.85, polarity: str = "dark") -> np.ndarray:
    """Pixels darker (or lighter) than ``out_prob`` are spikes; the top row is neuron 0, the left column step 0.

    Args:
        path: any picture that Matplotlib reads; colour is turned into luma, transparency is laid over white.
        out_prob: threshold on brightness, 0 black to 1 white.
        polarity: "dark" (a spike where brightness < out_prob, as published) or "light" (brightness > out_prob).

    Returns:
        (T, N) uint8.
    """
    if polarity not in POLARITIES:
        raise UserError(f"polarity={polarity!r} is unknown; allowed: {', '.join(POLARITIES)}")
    if not 0 <= out_prob <= 1:
        raise UserError(f"out_prob={out_prob} must lie between 0 (black) and 1 (white)")
    brightness = read_brightness(path).T
    spikes = brightness < out_prob if polarity == "dark" else brightness > out_prob
    return np.ascontiguousarray(spikes.astype(np.uint8))


def read_brightness(path: str | Path) -> np.ndarray:
    """Brightness of a picture, (height, width) float64 in 0..1.

    Raises:
        UserError: if it cannot be read or has more than ``MAX_PIXELS`` pixels.
    """
    from matplotlib.image import imread  # only here: training from event files does without
    from PIL import Image  # what Matplotlib reads pictures with

    try:
        try:
            with Image.open(path) as picture:
                width, height = picture.size
        except Image.DecompressionBombError as error:
            raise UserError(f"{path} has too many pixels, at most {MAX_PIXELS} are read ({error})") from None
        if width * height > MAX_PIXELS:
            raise UserError(f"{path} has {width} x {height} pixels, at most {MAX_PIXELS} are read; make it smaller")
        pixels = np.asarray(imread(path))
    except _PICTURE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture: {reason}") from error
    if pixels.dtype.kind in "ui":
        pixels = pixels / np.iinfo(pixels.dtype).max
    pixels = pixels.astype(np.float64)
    if pixels.ndim == 2:
        return pixels
    opacity = pixels[..., -1] if pixels.shape[-1] in (2, 4) else None
    colour = pixels[..., :3] @ _LUMA if pixels.shape[-1] >= 3 else pixels[..., 0]
    return colour if opacity is None else colour * opacity + (1 - opacity)


def write_spike_image(path: str | Path, spikes: np.ndarray) -> None:
    """Write spikes (T, N) as an 8-bit grey PNG, black on white, from which `image_target` reads them again."""
    from matplotlib.image import imsave

    nameless = {"Software": None}
    image = np.where(np.asarray(spikes).T > 0, 0.0, 1.0)
    imsave(path, image, cmap="gray", vmin=0, vmax=1, metadata=nameless)  # type: ignore[arg-type]  # None leaves it out


# ---------------------------------------------------------------- events
def read_events(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and units of one spike train, (E,) each.

    Args:
        path: of an HDF5 file with data sets ``times`` and ``units``, or of a CSV file with lines time,unit (a first
            line that holds no numbers is a heading).

    Raises:
        UserError: naming the file and line or data set.
    """
    path = Path(path)
    times, units = _read_csv(path) if path.suffix.lower() == ".csv" else _read_hdf5(path)
    if len(times) != len(units):
        raise UserError(f"{path}: {len(times)} times, but {len(units)} units")
    for values, what, wrong in (
        (times, "times must be finite and not negative, in seconds", ~np.isfinite(times) | (times < 0)),
        (
            units,
            f"units must be integers in 0..{MAX_BINS - 1}",
            ~((units >= 0) & (units < MAX_BINS) & (units % 1 == 0)),
        ),
    ):
        if wrong.any():
            event = int(np.argmax(wrong))
            raise UserError(f"{path}: {what}; event {event} has {values[event]:g}")
    return times, units.astype(np.int64)


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    times: list[float] = []
    units: list[float] = []
    with path.open(newline="", encoding="utf-8") as file:
        try:
            for number, row in enumerate(csv.reader(file), 1):
                if not row or row[0].startswith("#"):
                    continue
                try:
                    time, unit = float(row[0]), float(row[1])
                except (ValueError, IndexError):
                    if not times and number == 1:
                        continue
                    raise UserError(f"{path}, line {number}: wanted time,unit, found {','.join(row)[:60]!r}") from None
                times.append(time)
                units.append(unit)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as CSV: {error}") from error
    return np.array(times, np.float64), np.array(units, np.float64)


def _read_hdf5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from surgrad.datasets.sources.hdf5_file import open_hdf5, require

    with open_hdf5(path) as file:
        columns = [require(file, path, name, "iuf", most=MAX_EVENTS) for name in ("times", "units")]
        # cast before any arithmetic: float16 seconds overflow
        times, units = (column[:].astype(np.float64) for column in columns)
    return times, units


def bin_events(
    times: np.ndarray,
    units: np.ndarray,
    bin_dt: float,
    nb_outputs: int | None = None,
    nb_steps: int | None = None,
    name: str = "events",
) -> np.ndarray:
    """Events on a grid, step = floor(time / bin_dt), at most one spike per bin: (T, N) uint8.

    Args:
        times: (E,) s.
        units: (E,).
        bin_dt: s.
        nb_outputs: N; None: the smallest that holds all events.
        nb_steps: T; None: the smallest that holds all events.
        name: for messages.

    Raises:
        UserError: where events lie outside, or where the grid has more than ``MAX_BINS`` bins.
    """
    if not bin_dt > 0:
        raise UserError(f"dataset.bin_dt={bin_dt} s must be positive")
    last = times.max(initial=0.0)
    if not last / bin_dt < MAX_BINS:
        raise UserError(f"{name} lasts {last:g} s, at most {MAX_BINS} bins of {bin_dt:g} s are read{_in_seconds(last)}")
    steps = np.floor(times / bin_dt * (1 + 2.0**-22)).astype(np.int64)  # a rounded k bin_dt opens bin k
    largest_step, largest_unit = (int(v.max(initial=-1)) for v in (steps, units))
    if nb_outputs is not None and largest_unit >= nb_outputs:
        raise UserError(f"{name} has units up to {largest_unit}, but nb_outputs={nb_outputs}")
    if nb_steps is not None and largest_step >= nb_steps:
        raise UserError(
            f"{name} lasts {largest_step + 1} bins of {bin_dt:g} s, but nb_steps={nb_steps}; raise dataset.nb_steps "
            "or dataset.bin_dt"
        )
    shape = nb_steps or largest_step + 1, nb_outputs or largest_unit + 1
    if shape[0] * shape[1] > MAX_BINS:
        raise UserError(
            f"{name} needs {shape[0]} steps of {shape[1]} units, at most {MAX_BINS} bins are read; "
            f"raise dataset.bin_dt or check the largest time and unit{_in_seconds(last)}"
        )
    spikes = np.zeros(shape, np.uint8)
    spikes[steps, units] = 1
    return spikes


def _in_seconds(last: float) -> str:
    """A guess at the unit of times that are too large for seconds."""
    return " (times are in seconds: are these ms or us?)" if last > 100 else ""


def with_silent_steps(spikes: Tensor) -> Tensor:
    """(T, N) -> (2T, N): a silent step before every step.

    Neurons with the "multiplicative" reset are at 0 right after a spike and cannot fire in successive steps; the
    published code spaces its targets this way for them (reset_mode True).
    """
    return torch.stack([torch.zeros_like(spikes), spikes], 1).flatten(0, 1)
