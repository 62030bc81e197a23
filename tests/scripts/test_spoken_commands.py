"""All recordings of spoken_commands: the published layout read, fetched and made spikes, on a small copy of it."""

import csv
import functools
import hashlib
import importlib.util
import io
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

from surgrad.datasets.encoding.audio import CommandFolder, PublishedCommands
from surgrad.datasets.encoding.cochlea import Cochlea
from surgrad.datasets.encoding.conversion import Converter, by_part, convert
from surgrad.errors import UserError
from surgrad.experiments.datasets import HDF5Config

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "download_data.py"
RATE = 16_000  # Hz
USED, OTHER = ("no", "yes"), "cancel"
SPLITS = {"train": (10,), "val": (2,), "test": (3, 11)}
SPIKES = ["SHA256SUMS", "recordings", "test.h5", "train.h5", "val.h5"]


def clip(word, speaker, take, rate=RATE):
    t = np.arange(rate // 20) / rate
    return (8000 * np.sin(2 * np.pi * (300 + 500 * len(word) + 70 * speaker + 10 * take) * t)).astype(np.int16)


def wav(*what, rate=RATE):
    file = io.BytesIO()
    scipy.io.wavfile.write(file, rate, clip(*what, rate=rate))
    return file.getvalue()


def wav_name(word, speaker, take):
    return f"dataset/{word}/{speaker:08}_NO_{take:02}.wav"


def published(words):
    """The files of the repository: {path: content}."""
    files = {"LICENSE": b"CC BY", "README.md": b"# ASC", "background_noise/boiler.wav": wav("noise", 0, 0)}
    for split, speakers in SPLITS.items():
        clips = [(word, speaker, take) for word in words for speaker in speakers for take in (1, 2)]
        files |= {wav_name(*what): wav(*what) for what in clips}
        files[f"{split}.csv"] = "".join(["file,class\n", *(f"{wav_name(*w)},{w[0]}\n" for w in clips)]).encode()
    return files


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"arabic-speech-commands-dataset-0/{name}", content)
    return packed.getvalue()


def written(files, folder):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def present(folder):
    """What is kept of a folder: {path: content}."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


WHOLE = published([*USED, OTHER])
KEPT = {
    name: content for name, content in published(USED).items() if name[-3:] in ("csv", "wav") and "noise" not in name
}
DIGEST = hashlib.sha256(b"".join(b"%s\0%d\0%s" % (k.encode(), len(v), v) for k, v in sorted(KEPT.items()))).hexdigest()


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script; the published archive is the small one, in `tmp_path/mirror`, and the cochlea has 12 channels."""
    spec = importlib.util.spec_from_file_location("download_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "download_data", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    entry = module.DATA_SETS["spoken_commands"]
    archive = replace(entry.archives[0], name="0.zip", sha256=DIGEST)
    monkeypatch.setitem(module.DATA_SETS, "spoken_commands", replace(entry, archives=(archive,)))
    monkeypatch.setattr(module, "Cochlea", functools.partial(Cochlea, 12))
    written({"0.zip": zipped(WHOLE)}, tmp_path / "mirror")
    return module


@pytest.fixture
def run(script, tmp_path):
    command = ["spoken_commands", "--dest", str(tmp_path / "data"), "--url", (tmp_path / "mirror").as_uri()]
    return lambda *options: script.main([*command, *options])


FULL = ("--full", "--jobs", "1")


def test_what_is_used_is_kept_as_it_was_published(run, tmp_path):
    assert run() == 0
    assert names(tmp_path / "data") == ["recordings"]
    assert present(tmp_path / "data" / "recordings") == KEPT | {"LICENSE": b"CC BY"}


def test_all_recordings_become_the_spikes_that_flac_files_of_them_become(run, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    assert run(*FULL) == 0
    assert names(tmp_path / "data") == SPIKES
    flac, table = tmp_path / "flac", []
    flac.mkdir()
    for word in USED:
        rows = [(s, take, split) for split, speakers in SPLITS.items() for s in speakers for take in (1, 2)]
        table += [[word, 800 * k, 800, *row] for k, row in enumerate(rows)]
        soundfile.write(flac / f"{word}.flac", np.concatenate([clip(word, *row[:2]) for row in rows]), RATE)
    with open(flac / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows([["word", "start", "samples", "speaker", "take", "split"], *table])
    source = CommandFolder(flac)
    assert [(r.name, r.split) for r in source.recordings] == [
        (r.name, r.split) for r in PublishedCommands(tmp_path / "data" / "recordings").recordings
    ]
    converter = Converter(source, Cochlea(12), seed=0, parts=tmp_path / "parts")
    for file in convert(converter, by_part(source.recordings), tmp_path / "out", jobs=1):
        assert file.path.read_bytes() == (tmp_path / "data" / file.path.name).read_bytes()
        assert (file.nb_recordings, file.nb_events > 0) == (4 * len(SPLITS[file.path.stem]), True)


def test_spikes_that_are_there_need_no_recordings(script, run, tmp_path, monkeypatch, capsys):
    assert run(*FULL) == 0
    script.shutil.rmtree(tmp_path / "data" / "recordings")
    monkeypatch.delattr(script, "convert")
    assert run(*FULL) == 0
    assert capsys.readouterr().out.count("is there, unchanged") == 3
    (tmp_path / "data" / "val.h5").write_bytes(b"changed")
    assert run(*FULL) == 1
    assert "val.h5: sha256 is" in capsys.readouterr().err


def test_a_stopped_conversion_goes_on(run, tmp_path, monkeypatch):
    drawn, honest = [], Cochlea.__call__

    def stopped(cochlea, *arguments):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(arguments[2])
        return honest(cochlea, *arguments)

    monkeypatch.setattr(Cochlea, "__call__", stopped)
    assert run(*FULL) == 130
    assert names(tmp_path / "data") == [".parts", "recordings"]
    monkeypatch.setattr(Cochlea, "__call__", lambda c, *arguments: drawn.append(arguments[2]) or honest(c, *arguments))
    assert run(*FULL) == 0
    assert len(drawn) == len(set(drawn)) == 16
    assert names(tmp_path / "data") == SPIKES


NOISY = WHOLE | {wav_name("no", 2, 1): wav("no", 2, 2)}


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (
            zipped(NOISY),
            f"0.zip.*: sha256 of the content is .*, expected {DIGEST}: damaged or another version",
        ),
        (zipped({k: v for k, v in WHOLE.items() if k != "val.csv"}), "expected .*: damaged or another version"),
        (zipped({k: v for k, v in WHOLE.items() if "/no/" not in k}), "expected .*: damaged or another version"),
        (zipped({"README.md": b"other"}), "damaged archive .'no recording of these words inside'"),
        (zipped(WHOLE)[:-1000], "damaged archive"),
        (b"<html>", "damaged archive"),
    ],
)
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_wrong_archive_is_named_and_nothing_is_left_of_it(run, tmp_path, capsys, packed, says, by_hand):
    name = "arabic-speech-commands-dataset-0.zip" if by_hand else "0.zip"
    written({name: packed}, tmp_path / ("data" if by_hand else "mirror"))
    assert run(*FULL) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert re.search(says, line)
    assert names(tmp_path / "data") == ([name] if by_hand else [])


def test_half_a_download_and_half_unpacked_files_are_completed(run, tmp_path):
    half = zipped(WHOLE)[:5000]
    data = written({"0.zip.part": half, "tmp-recordings/dataset/no/half.wav": b"RIFF"}, tmp_path / "data")
    assert run() == 0
    assert names(data) == ["recordings"]
    assert present(data / "recordings") == KEPT | {"LICENSE": b"CC BY"}


def test_a_recording_that_has_changed_since_is_found(run, tmp_path, capsys):
    assert run() == 0
    (tmp_path / "data" / "recordings" / wav_name("yes", 3, 2)).unlink()
    assert run(*FULL) == 1
    assert "recordings: sha256 is" in capsys.readouterr().err


def test_flipped_bytes_of_an_archive_are_noticed_in_one_line(run, tmp_path):
    whole, rng = zipped(WHOLE), np.random.default_rng(0)
    for position in (*rng.integers(len(whole), size=50), *rng.integers(len(whole) - 4000, len(whole), size=50)):
        body = bytearray(whole)
        body[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "mirror" / "0.zip").write_bytes(body)
        if run() == 0:  # a byte that says nothing of the content, as a date
            assert present(tmp_path / "data" / "recordings").items() >= KEPT.items()
            (tmp_path / "data" / "recordings").rename(tmp_path / f"kept-{position}")
        assert names(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mnist", "--full"], "mnist is fetched whole"),
        (["spoken_commands", "--full", "--jobs", "0"], "--jobs 0: at least 1"),
        (["spoken_commands", "--jobs", "2"], "--jobs 2: at least 1, and goes with --full"),
    ],
)
def test_options_that_mean_nothing_are_refused(script, capsys, words, says):
    with pytest.raises(SystemExit):
        script.main(words)
    assert says in capsys.readouterr().err


NO_2_1 = wav_name("no", 2, 1)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"val.csv": None}, "val.csv: no such file; expected a table of the columns file,class"),
        ({"val.csv": b"name,class\n"}, "val.csv: columns are .*; expected file,class"),
        ({"val.csv": b"file,class\n\xff\xfe,no\n"}, "val.csv: cannot be read as CSV"),
        (
            {"val.csv": f"file,class\n{NO_2_1},yes\n".encode()},
            "val.csv, line 2: .*no/00000002_NO_01.wav' of class 'yes'",
        ),
        ({"val.csv": b"file,class\ndataset/no/2_1.wav,no\n"}, "val.csv, line 2: 'dataset/no/2_1.wav' of class 'no'"),
        ({"val.csv": b"file,class\n../no/00000002_NO_01.wav,no\n"}, "val.csv, line 2: '../no"),
        ({"val.csv": b"file,class\nno\n"}, "val.csv, line 2: 'no' of class None"),
        ({"test.csv": KEPT["train.csv"]}, "test.csv, line 2: dataset/no/00000010_NO_01.wav is listed twice"),
        ({NO_2_1: None}, "val.csv, line 2: dataset/no/00000002_NO_01.wav is not in "),
        ({wav_name("maybe", 2, 1): wav("no", 2, 1)}, "maybe/00000002_NO_01.wav: no table lists it"),
        (
            {NO_2_1: wav("no", 2, 1, rate=8000)},
            "no/00000002_NO_01.wav: 8000 Hz; the recordings of this data set have 16000",
        ),
        ({NO_2_1: wav("no", 2, 1)[:500]}, "no/00000002_NO_01.wav: not a readable wav file .truncated"),
    ],
)
def test_a_wrong_file_of_the_published_layout_is_named(tmp_path, changed, says):
    folder = written({k: v for k, v in (KEPT | changed).items() if v is not None}, tmp_path)
    with pytest.raises(UserError, match=says) as caught:  # noqa: PT012
        source = PublishedCommands(folder)
        for recording in source.recordings:
            source.audio(recording)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_how_to_get_it(tmp_path):
    keys = {"name": "spoken_commands", "datadir": str(tmp_path), "validation": "none"}
    keys |= {"train_path": f"{tmp_path}/train.h5", "test_path": f"{tmp_path}/test.h5"}
    with pytest.raises(UserError, match=r"train.h5: no such file; .*download_data.py spoken_commands --full$"):
        HDF5Config(**keys).preflight()
