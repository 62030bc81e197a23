"""The converter: recordings in, compact event files out; killed or not, one process or two."""

import contextlib
import csv
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

from surgrad.datasets.binning import time_to_step
from surgrad.datasets.encoding.audio import HIGHEST_RATE, CommandFolder, read_wav
from surgrad.datasets.encoding.cochlea import Cochlea
from surgrad.datasets.sources.hdf5 import read_shd
from surgrad.errors import UserError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "audio_to_spikes.py"
EMBEDDED = ROOT / "data" / "spiking_digits"
CHANNELS = ["--channels", "12"]


@pytest.fixture(scope="module")
def convert():
    spec = importlib.util.spec_from_file_location("audio_to_spikes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return lambda *arguments: module.main(["--jobs", "1", *map(str, arguments), *CHANNELS])


def write_wav(path, frequency, rate=8000, duration=0.1, kind=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(rate * duration)) / rate
    scipy.io.wavfile.write(path, rate, (8000 * np.sin(2 * np.pi * frequency * t)).astype(kind))


@pytest.fixture
def folder(tmp_path):
    for position, speaker in enumerate(("ann", "bob", "eve")):
        for label in range(2):
            for index in range(2):
                write_wav(tmp_path / "wav" / f"{label}_{speaker}_{index}.wav", 300 + 900 * label + 50 * position)
    return tmp_path / "wav"


def rows(path):
    dataset = read_shd(path)
    cuts = dataset.offsets[1:-1]
    return {
        "times": np.split(dataset.times, cuts),
        "units": np.split(dataset.units, cuts),
        "labels": dataset.labels.tolist(),
        "speaker": None if dataset.speakers is None else dataset.speakers.tolist(),
        "keys": list(dataset.class_names),
    }


def test_files_hold_the_cochlea_s_spikes_at_the_resolution(convert, folder):
    convert(folder, folder.parent / "out", "--train-speakers", "ann", "eve", "--test-speakers", "bob")
    train, test = (rows(folder.parent / "out" / f"{name}.h5") for name in ("train", "test"))
    assert train["labels"] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert train["speaker"] == [0, 2, 0, 2, 0, 2, 0, 2]
    assert set(test["speaker"]) == {1}
    assert train["keys"] == test["keys"] == ["0", "1"]
    audio, rate = read_wav(folder / "0_ann_0.wav")
    times, units = Cochlea(12)(audio, rate, int.from_bytes(hashlib.sha256(b"0/0_ann_0").digest()[:8], "little"))
    step = time_to_step(times, 0.5e-3).astype(int)
    order = np.lexsort((step, units))
    np.testing.assert_array_equal(time_to_step(train["times"][0], 0.5e-3).astype(int), step[order])
    np.testing.assert_array_equal(train["units"][0], units[order])
    assert not (folder.parent / "out" / ".parts").exists()


def test_limit_takes_the_lowest_indices_of_each_speaker_and_label(convert, folder):
    write_wav(folder / "0_ann_10.wav", 500)
    convert(folder, folder.parent / "all")
    convert(folder, folder.parent / "few", "--limit", 1)
    every, few = rows(folder.parent / "all" / "spikes.h5"), rows(folder.parent / "few" / "spikes.h5")
    assert len(every["labels"]) == 13
    assert sorted(zip(few["labels"], few["speaker"], strict=True)) == [(k, s) for k in range(2) for s in range(3)]
    for kept in few["times"]:  # a recording's spikes do not depend on the others
        assert any(np.array_equal(kept, row) for row in every["times"])


def test_a_table_labels_files_of_any_name(convert, tmp_path):
    for name, frequency in (("a.wav", 400), ("sub/b.WAV", 1500), ("c.wav", 800)):
        write_wav(tmp_path / "wav" / name, frequency)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "label"], ["a.wav", "yes"], ["sub/b.WAV", "no"], ["c.wav", "yes"]])
    convert(tmp_path / "wav", tmp_path, "--labels", tmp_path / "labels.csv")
    converted = rows(tmp_path / "spikes.h5")
    assert converted["keys"] == ["no", "yes"]
    assert converted["labels"] == [1, 0, 1]
    assert converted["speaker"] is None


def test_an_archive_gives_the_spikes_of_its_wav_files(convert, folder):
    files = sorted(folder.glob("*.wav"))
    clips = [scipy.io.wavfile.read(file)[1] for file in files]
    label, speaker, index = zip(*(file.stem.split("_") for file in files), strict=True)
    names = ["ann", "bob", "eve"]
    np.savez(
        folder.parent / "digits.npz",
        audio=np.concatenate(clips),
        offsets=np.cumsum([0] + [len(clip) for clip in clips]),
        label=np.array(label, np.uint8),
        speaker=np.array([names.index(name) for name in speaker], np.uint8),
        index=np.array(index, np.uint8),
        speakers=np.array(names),
        rate=8000,
    )
    convert(folder, folder.parent / "a")
    convert(folder.parent / "digits.npz", folder.parent / "b")
    a, b = (folder.parent / name / "spikes.h5" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


@pytest.fixture
def words(tmp_path):
    """Two words by three speakers, two takes each, end to end in a FLAC file per word."""
    soundfile = pytest.importorskip("soundfile")
    folder, table = tmp_path / "words", []
    folder.mkdir()
    for k, word in enumerate(("yes", "no")):
        clips = []
        for speaker, part in ((2, "val"), (10, "train"), (11, "test")):
            for take in (1, 2):
                t = np.arange(1600) / 16000
                table.append([word, 1600 * len(clips), 1600, speaker, take, part])
                clips.append((8000 * np.sin(2 * np.pi * (400 + 90 * speaker + 300 * k) * t)).astype(np.int16))
        soundfile.write(folder / f"{word}.flac", np.concatenate(clips), 16000)
    with open(folder / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows([["word", "start", "samples", "speaker", "take", "split"], *table])
    return folder


def test_words_keep_their_published_partition_and_speakers(convert, words):
    convert(words, words.parent / "out", "--limit", 1)
    for part, speaker in (("train", 10), ("val", 2), ("test", 11)):
        converted = rows(words.parent / "out" / f"{part}.h5")
        assert converted["keys"] == ["no", "yes"]
        assert converted["labels"] == [0, 1]
        assert converted["speaker"] == [speaker] * 2


def test_a_clip_is_cut_out_of_its_file(words):
    source = CommandFolder(words)
    assert [r.name for r in source.recordings[:3]] == ["no/2/1", "yes/2/1", "no/10/1"]
    audio, rate = source.audio(source.recordings[4])
    t = np.arange(1600) / 16000
    assert (source.recordings[4].name, rate) == ("no/11/1", 16000)
    np.testing.assert_allclose(audio, 8000 * np.sin(2 * np.pi * (400 + 90 * 11 + 300) * t), atol=1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("yes,1600,", "yes,15000,", "expected .1600,."),
        ("yes,1600,", "yes,-5,", "line 3: listed twice, empty or out of range"),
        ("yes,1600,", "yes,soon,", "line 3: a number is missing"),
        ("yes,1600,1600,2,2", "yes,1600,1600,2,1", "line 3: listed twice"),
        ("start,", "begin,", "columns are .* expected word,start"),
        ("yes,", "maybe,", "maybe.flac: cannot be read as FLAC"),
    ],
)
def test_a_wrong_table_of_words_is_named(words, old, new, message):
    table = words / "index.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):  # noqa: PT012
        source = CommandFolder(words)
        for recording in source.recordings:
            source.audio(recording)


def command(*arguments):
    return [sys.executable, str(SCRIPT), *map(str, arguments), *CHANNELS]


@pytest.mark.slow
def test_killed_conversion_goes_on_and_two_processes_draw_what_one_draws(convert, folder):
    for index in range(2, 30):
        write_wav(folder / f"0_ann_{index}.wav", 600 + 40 * index, duration=0.3)
    convert(folder, folder.parent / "whole")
    out = folder.parent / "killed"
    process = subprocess.Popen(command(folder, out, "--jobs", 2), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob(".parts/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "spikes.h5").exists()
    done = {part: part.stat().st_mtime_ns for part in out.glob(".parts/*.npz")}
    assert 0 < len(done) < 40
    reused = out / ".parts" / next(iter(done)).name
    os.utime(reused, ns=(1, 1))
    stamps = []
    original = np.load

    def spy(path, *args, **kwargs):
        if Path(path) == reused:
            stamps.append(os.stat(path).st_mtime_ns)
        return original(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "load", spy)
        convert(folder, out)
    assert stamps == [1]  # read, not drawn again
    assert (out / "spikes.h5").read_bytes() == (folder.parent / "whole" / "spikes.h5").read_bytes()


def write_table(folder, text):
    (folder / "l.csv").write_text(text)


TABLE = ["{wav}", "{out}", "--labels", "{wav}/l.csv"]
SAME = ["{wav}", "{out}", "--test-speakers", "ann", "--train-speakers", "ann"]


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda f: None, ["{wav}/nowhere", "{out}"], "no such folder"),
        (lambda f: (f / "empty").mkdir(), ["{wav}/empty", "{out}"], "no wav file in it"),
        (lambda f: write_wav(f / "seven.wav", 300), ["{wav}", "{out}"], r"seven.wav: the name is not"),
        (lambda f: (f / "0_ann_7.wav").write_bytes(b"RIFF"), ["{wav}", "{out}"], "0_ann_7.wav: not a readable"),
        (lambda f: (f / "0_ann_7.wav").write_bytes(b"text"), ["{wav}", "{out}"], "0_ann_7.wav: not a readable"),
        (lambda f: write_wav(f / "0_ann_7.wav", 0), ["{wav}", "{out}"], "0_ann_7: audio is silent"),
        (lambda f: write_table(f, "file,label\n0_ann_0.wav,1\n"), TABLE, "no label for 0_ann_1.wav"),
        (lambda f: write_table(f, "name;label\n"), TABLE, "expected file,label"),
        (lambda f: None, TABLE, "l.csv: no such file"),
        (lambda f: None, ["{wav}", "{out}", "--test-speakers", "carl"], "'carl' has no recordings; allowed are ann"),
        (lambda f: None, SAME, "ann on both sides"),
        (lambda f: None, ["{wav}", "{out}", "--limit", "0"], "--limit 0: at least 1"),
        (lambda f: None, ["{wav}.npz", "{out}"], "cannot be read"),
        (lambda f: np.savez(f / "d.npz", audio=np.zeros(3)), ["{wav}/d.npz", "{out}"], "lacks the arrays index"),
    ],
)
def test_mistakes_are_named_in_one_line(convert, folder, prepare, arguments, message):
    prepare(folder)
    with pytest.raises(UserError, match=message) as caught:
        convert(*(argument.format(wav=folder, out=folder.parent / "out") for argument in arguments))
    assert "\n" not in str(caught.value)
    assert not list((folder.parent / "out").glob("*.h5"))


def test_a_mistake_ends_the_script_with_one_line(tmp_path):
    ended = subprocess.run(command(tmp_path, tmp_path), capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {tmp_path}: no wav file in it\n"


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_every_sample_format_is_read(tmp_path, kind):
    t = np.arange(100) / 8000
    offset = 128 if kind is np.uint8 else 0
    wave = (100 * np.sin(2 * np.pi * 440 * t) + offset).astype(kind)
    scipy.io.wavfile.write(tmp_path / "mono.wav", 8000, wave)
    scipy.io.wavfile.write(tmp_path / "stereo.wav", 8000, np.stack([wave, wave], axis=1))
    mono, rate = read_wav(tmp_path / "mono.wav")
    assert rate == 8000
    np.testing.assert_allclose(mono, wave.astype(float) - offset)
    np.testing.assert_array_equal(read_wav(tmp_path / "stereo.wav")[0], mono)


def wav_file(path):
    scipy.io.wavfile.write(path, 8000, (1000 * np.sin(np.arange(800) / 3)).astype(np.int16))


@pytest.mark.parametrize("nb_bytes", [0, 1, 11, 12, 20, 43, 44, 45, 100, 1000, 1643])
def test_a_truncated_wav_is_refused(tmp_path, nb_bytes):
    wav_file(tmp_path / "a.wav")
    whole = (tmp_path / "a.wav").read_bytes()
    assert len(whole) == 1644
    (tmp_path / "a.wav").write_bytes(whole[:nb_bytes])
    with pytest.raises(UserError, match=r"a.wav: (not a readable wav file|0 samples)"):
        read_wav(tmp_path / "a.wav")


def test_every_flipped_bit_of_a_wav_header_is_read_or_refused(tmp_path):
    path = tmp_path / "a.wav"
    wav_file(path)
    whole = path.read_bytes()
    for bit in range(8 * 44):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with contextlib.suppress(UserError):  # anything else is a fault
            samples, rate = read_wav(path)
            assert len(samples) > 0
            assert 0 < rate <= HIGHEST_RATE


@pytest.mark.parametrize("rate", [1, 999, 2_000_000])
def test_rates_that_no_recording_has_are_refused(tmp_path, rate):
    scipy.io.wavfile.write(tmp_path / "a.wav", rate, np.ones(800, np.int16))
    with pytest.raises(UserError, match=f"800 samples at {rate} Hz; need some, at 1000 to 1000000 Hz"):
        read_wav(tmp_path / "a.wav")


def test_embedded_digits_are_balanced_and_keep_their_speakers_apart():
    train, test = rows(EMBEDDED / "train.h5"), rows(EMBEDDED / "test.h5")
    assert set(train["speaker"]) == {0, 1, 2, 3}
    assert set(test["speaker"]) == {4}
    for part in (train, test):
        pairs = list(zip(part["labels"], part["speaker"], strict=True))
        assert len(set(pairs)) == 10 * len(set(part["speaker"]))
        assert {pairs.count(pair) for pair in pairs} == {len(pairs) // len(set(pairs))}
        assert max(units.max() for units in part["units"]) < 700
        assert min(len(units) for units in part["units"]) > 100
        assert all((np.diff(times) >= 0).all() for times in part["times"])
    assert len(train["labels"]) + len(test["labels"]) >= 600
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir() if file.is_file()) <= 16 * 2**20
