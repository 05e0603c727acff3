"""Datasets with images: each layout, what stays on disk, and what is refused by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from PIL import Image

from policies import DatasetError, Demonstrations, Windows, check_finite, read_dataset
from policies.data.pictures import Pictures
from skipstep.observations import ObservationSpec
from tests.helpers.image_files import (
    FPS,
    LENGTHS,
    SHAPE,
    SPEC,
    episodes,
    frames,
    png,
    write_lerobot,
    write_robomimic,
    write_video,
)
from tests.helpers.places import PROJECT

WIDE = ObservationSpec.of(
    {"image.top": SHAPE, "state": 3, "environment_state": 4, "image.wrist": (3, 20, 24)}, FPS
)
LEROBOT: dict[str, dict[str, Any]] = {
    "v2.1 stills": {"version": "v2.1"},
    "v3.0 stills": {"version": "v3.0"},
    "v2.1 videos": {"version": "v2.1", "kind": "video"},
    "v3.0 videos": {"version": "v3.0", "kind": "video"},
    "v3.0 videos, one key frame": {"version": "v3.0", "kind": "video", "group": 250},
}


def written(name: str, spec: ObservationSpec = SPEC) -> np.ndarray:
    """An array of all episodes as it must come back."""
    values = np.concatenate([arrays[name] for arrays in episodes(spec)])
    return values.transpose(0, 3, 1, 2) if name.startswith("image.") else values


def assert_holds(data: Demonstrations, spec: ObservationSpec) -> None:
    assert list(data.obs) == list(spec)
    assert data.ends.tolist() == np.cumsum(LENGTHS).tolist()
    np.testing.assert_array_equal(data.action, written("action", spec))
    for name in spec:
        assert data.obs[name].shape == (sum(LENGTHS), *spec[name].shape)
        np.testing.assert_array_equal(data.obs[name][:], written(name, spec))


@pytest.mark.parametrize("layout", LEROBOT)
@pytest.mark.parametrize("spec", [SPEC, WIDE], ids=["one camera", "two cameras"])
def test_lerobot(layout: str, spec: ObservationSpec, tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes(spec), **LEROBOT[layout])
    assert_holds(read_dataset([folder], spec=spec), spec)
    rows = np.array([[18, 2], [7, 7], [3, 0]])
    images = read_dataset([folder], spec=spec).obs["image.top"]
    np.testing.assert_array_equal(images[rows], written("image.top", spec)[rows])
    np.testing.assert_array_equal(images[-1], written("image.top", spec)[-1])


@pytest.mark.parametrize("compression", [{}, {"compression": "gzip"}])
def test_robomimic(compression: dict[str, Any], tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5", episodes(WIDE), **compression)
    assert_holds(read_dataset([path], spec=WIDE), WIDE)


def test_images_of_liberos_files_have_no_suffix(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "a.hdf5", episodes(WIDE))
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            for key in [key for key in demo["obs"] if key.endswith("_image")]:
                demo["obs"].move(key, key.removesuffix("_image"))
    assert_holds(read_dataset([path], spec=WIDE), WIDE)


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_videos_with_loss(codec: str, tmp_path: Path) -> None:
    """AV1 is LeRobot's own; frames at other places of the video would be far off."""
    spec = ObservationSpec.of({"state": 3, "image.top": (3, 64, 96)}, FPS)
    folder = write_lerobot(tmp_path / "set", episodes(spec), kind="video", codec=codec)
    images = read_dataset([folder], spec=spec).obs["image.top"]
    expected = written("image.top", spec)
    for row in (17, 4, 5, 11, 0):
        off = np.abs(images[row].astype(int) - expected).mean((1, 2, 3))
        assert off.argmin() == row
        assert off[row] < 8


@pytest.mark.parametrize("library", ["0.3.3", "0.4.4"])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_folders_that_lerobot_wrote(library: str, kind: str) -> None:
    """Its own `add_frame` and `save_episode`, of `frames` and of normally distributed numbers."""
    lengths, shape = (6, 4), (3, 64, 64)
    spec = ObservationSpec.of({"state": 3, "image.top": shape}, 10)
    data = read_dataset([PROJECT / f"tests/data/lerobot_datasets/{library}_{kind}"], spec=spec)
    assert data.ends.tolist() == [6, 10]
    rng = np.random.default_rng(0)
    numbers = np.array([[*rng.normal(size=3), *rng.normal(size=2)] for _ in range(10)], np.float32)
    np.testing.assert_array_equal(data.obs["state"], numbers[:, :3])
    np.testing.assert_array_equal(data.action, numbers[:, 3:])
    expected = [frames(n, 10 * number, shape) for number, n in enumerate(lengths)]
    off = data.obs["image.top"][:].transpose(0, 2, 3, 1) - np.concatenate(expected).astype(int)
    assert np.abs(off).mean() < (8 if kind == "video" else 1e-9)


def test_several_files_and_kinds_are_one_dataset(tmp_path: Path) -> None:
    files = [
        write_robomimic(tmp_path / "a.hdf5", episodes()),
        write_lerobot(tmp_path / "b", episodes(), "v2.1"),
    ]
    with h5py.File(files[0], "a") as file:
        for demo in file["data"].values():
            demo["obs/observation.state"] = demo["obs/obs"][()]
    data = read_dataset(files, spec=SPEC, obs_keys=["observation.state"])
    n = sum(LENGTHS)
    np.testing.assert_array_equal(data.obs["image.top"][n:], written("image.top"))
    np.testing.assert_array_equal(data.obs["image.top"][:n], written("image.top"))


def test_images_alone_and_a_camera_without_a_name(tmp_path: Path) -> None:
    spec = ObservationSpec.of({"image.top": SHAPE}, FPS)
    keys = {"image.top": "observation.image"}
    data = read_dataset([write_lerobot(tmp_path / "a", episodes(spec), keys=keys)], spec=spec)
    assert_holds(data, spec)
    assert data.state.shape == (sum(LENGTHS), 0)
    check_finite(data)
    spec = ObservationSpec.of({"image.image": SHAPE, "image.top": SHAPE}, FPS)
    keys = {"image.image": "observation.image"}
    assert_holds(
        read_dataset([write_lerobot(tmp_path / "b", episodes(spec), keys=keys)], spec=spec), spec
    )


def test_without_a_specification_images_are_left_alone(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes())
    np.testing.assert_array_equal(read_dataset([folder]).obs, written("state"))


def test_windows_have_the_steps_that_are_seen(tmp_path: Path) -> None:
    data = read_dataset([write_lerobot(tmp_path / "set", episodes())], spec=SPEC)
    windows = Windows(data, np.array([0, 2]), horizon=4, pad_before=1, pad_after=2)
    numbers = np.array([0, 3, len(windows) - 1])
    noise = np.ones((3, 4, 3), np.float32)
    obs, action = windows.take(numbers, noise)
    rows = np.array([[0, 0, 1, 2], [2, 3, 4, 5], [17, 18, 18, 18]])
    np.testing.assert_array_equal(obs["image.top"], written("image.top")[rows[:, :2]])
    np.testing.assert_allclose(obs["state"], written("state")[rows[:, :2]] + 1)
    np.testing.assert_array_equal(action, written("action")[rows])


@pytest.mark.parametrize("layout", LEROBOT)
def test_what_is_kept_is_bounded(layout: str, tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes(), **LEROBOT[layout])
    image_mb = np.prod(SHAPE) / 1e6
    data = read_dataset([folder], spec=SPEC, cache_mb=3.5 * image_mb)
    images = data.obs["image.top"]
    assert 0 < images.cache.n_bytes <= images.cache.max_bytes  # the first one has been looked at
    for row in np.random.default_rng(0).integers(0, sum(LENGTHS), 60):
        np.testing.assert_array_equal(images[row], written("image.top")[row])
        assert images.cache.n_bytes <= images.cache.max_bytes


def test_nothing_but_the_first_image_is_decoded_at_first(tmp_path: Path) -> None:
    data = read_dataset([write_robomimic(tmp_path / "a.hdf5", episodes())], spec=SPEC)
    images = data.obs["image.top"]
    assert isinstance(images, Pictures)
    assert images.cache.n_bytes == np.prod(SHAPE)
    clip, kept = images.clips[1], []

    class Counted:
        def __len__(self) -> int:
            return len(clip)

        def read(self, steps: Any) -> Any:
            kept.extend(steps)
            return clip.read(steps)

    images.clips[1] = Counted()
    assert images[np.array([7, 6, 7])].shape == (3, *SHAPE)
    assert images[6:8].shape == (2, *SHAPE)
    assert kept == [0, 1]


def test_cameras_that_the_task_does_not_have_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [
        write_lerobot(tmp_path / "set", episodes(WIDE)),
        write_robomimic(tmp_path / "a.hdf5", episodes(WIDE)),
    ]
    with caplog.at_level(logging.WARNING):
        for file in files:
            read_dataset([file], spec=SPEC)
    said = "is a camera that the task does not have (it has image.top): it is not read"
    assert [record.getMessage() for record in caplog.records] == [
        f"{files[0]}: observation.images.wrist {said}",
        f"{files[1]}: obs/wrist_image {said}",
    ]


def refusal(path: Path, spec: ObservationSpec = SPEC) -> str:
    """The one line in which a dataset is refused, at the latest when its images are asked for."""

    def read() -> None:
        for array in read_dataset([path], spec=spec).obs.values():
            array[:]

    with pytest.raises(DatasetError) as refused:
        read()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


OTHERS: dict[str, tuple[ObservationSpec, str]] = {
    "another camera": (
        ObservationSpec.of({"state": 3, "image.front": SHAPE}),
        "no {front} in it for image.front of 3 x 12 x 16 pixels, it holds ",
    ),
    "another size": (
        ObservationSpec.of({"state": 3, "image.top": (3, 16, 12)}),
        "{top} must be ",
    ),
    "one channel": (ObservationSpec.of({"state": 3, "image.top": (1, 12, 16)}), "{top} must be "),
    "more numbers": (
        ObservationSpec.of({"state": 3, "environment_state": 2}),
        "no {environment} in it for environment_state of 2 numbers, it holds ",
    ),
}
NAMES = {
    "lerobot": {
        "front": "observation.images.front",
        "top": "observation.images.top",
        "environment": "observation.environment_state",
    },
    "robomimic": {
        "front": "obs/front_image",
        "top": "obs/top_image",
        "environment": "obs/environment_state",
    },
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_as_the_task_has_it_is_refused(kind: str, case: str, tmp_path: Path) -> None:
    spec, said = OTHERS[case]
    if kind == "lerobot":
        path = write_lerobot(tmp_path / "set", episodes())
    else:
        path = write_robomimic(tmp_path / "a.hdf5", episodes())
        if "environment" in said:
            said = "no {environment} in it, it holds actions, obs/"
    assert said.format(**NAMES[kind]) in refusal(path, spec)


def test_numbers_of_another_length_are_refused(tmp_path: Path) -> None:
    spec = ObservationSpec.of({"environment_state": 5, "image.top": SHAPE})
    for path in (
        write_lerobot(tmp_path / "set", episodes(WIDE)),
        write_robomimic(tmp_path / "a.hdf5", episodes(WIDE)),
    ):
        assert "environment_state must be of 5 numbers, got 4 numbers" in refusal(path, spec)


def test_another_rate_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes(), fps=20)
    said = f"{folder}/meta/info.json: fps must be 10 as the task's control rate, got 20"
    assert refusal(folder) == said
    low_dim = ObservationSpec.of({"state": 3}, 10)
    assert refusal(folder, low_dim) == said


def test_an_npz_has_no_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", obs=np.zeros((4, 3)), action=np.zeros((4, 2)), episode_ends=[4])
    assert "an npz holds no images: image.top must come from a robomimic" in refusal(
        tmp_path / "a.npz"
    )


def test_an_npz_has_other_numbers(tmp_path: Path) -> None:
    spec = ObservationSpec.of({"state": 3, "environment_state": 4})
    fields = {name: np.concatenate([e[name] for e in episodes(spec)]) for name in (*spec, "action")}
    np.savez(tmp_path / "a.npz", **fields, episode_ends=np.cumsum(LENGTHS))
    assert_holds(read_dataset([tmp_path / "a.npz"], spec=spec), spec)
    np.savez(
        tmp_path / "b.npz", **fields | {"environment_state": np.zeros((5, 4))}, episode_ends=[5]
    )
    said = "got 5 with 19 steps of action and 19 of state, 5 of environment_state"
    assert said in refusal(tmp_path / "b.npz", spec)


def _first(demo: Any, values: Any) -> None:
    del demo["obs/top_image"]
    demo["obs/top_image"] = values


HDF5: dict[str, tuple[Callable[[Any], None], str]] = {
    "channels first": (
        lambda demo: _first(demo, np.zeros((4, *SHAPE), np.uint8)),
        "demo_1: obs/top_image must be uint8 (steps, 12, 16, 3), rows, columns and channels, "
        "got uint8 (4, 3, 12, 16)",
    ),
    "floats": (
        lambda demo: _first(demo, np.full((4, 12, 16, 3), 255.0)),
        "got float64 (4, 12, 16, 3)",
    ),
    "flat": (lambda demo: _first(demo, np.zeros((4, 576), np.uint8)), "got uint8 (4, 576)"),
    "too few": (
        lambda demo: _first(demo, np.zeros((3, 12, 16, 3), np.uint8)),
        "demo_1: image.top has 3 steps, actions has 4",
    ),
    "not there": (
        lambda demo: demo["obs"].pop("top_image"),
        "demo_1: no obs/top_image in it for image.top of 3 x 12 x 16 pixels, "
        "it holds actions, obs/obs",
    ),
}


@pytest.mark.parametrize("case", HDF5)
def test_images_of_robomimic_that_are_something_else_are_refused(case: str, tmp_path: Path) -> None:
    change, said = HDF5[case]
    path = write_robomimic(tmp_path / "a.hdf5", episodes())
    with h5py.File(path, "a") as file:
        change(file["data/demo_1"])
    assert said in refusal(path)


def _of(frame: Any, mode: str) -> bytes:
    return png(np.asarray(Image.fromarray(frame).convert(mode)))


CELLS: dict[str, tuple[Callable[[Any], bytes | None], str]] = {
    "nothing": (lambda frame: None, "must hold the bytes of a PNG or JPEG, got none"),
    "no bytes": (lambda frame: b"", "must hold the bytes of a PNG or JPEG, got none"),
    "words": (lambda frame: b"a picture", "must be a PNG or JPEG, it is neither"),
    "another format": (lambda frame: png(frame, "GIF"), "must be a PNG or JPEG, it is neither"),
    "a program": (
        lambda frame: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n(x) (w) file\n",
        "must be a PNG or JPEG, it is neither",
    ),
    "half": (lambda frame: png(frame)[:200], "cannot be decoded ("),
    "a flipped byte": (
        lambda frame: png(frame)[:60] + b"\x00\x01\x02" + png(frame)[63:],
        "cannot be decoded (",
    ),
    "another size": (
        lambda frame: png(frame[:8]),
        "must be of 3 x 12 x 16 pixels, got 3 x 8 x 16 pixels",
    ),
    "transparency": (lambda frame: _of(frame, "RGBA"), "got 4 x 12 x 16 pixels"),
    "grey": (lambda frame: _of(frame, "L"), "got 1 x 12 x 16 pixels"),
    "16 bits": (
        lambda frame: png(frame[..., 0].astype(np.uint16)),
        "must have 8 bits a channel, got I;16",
    ),
}


def with_cell(folder: Path, row: int, change: Callable[[Any], bytes | None]) -> Path:
    """A folder in which one image is something else."""
    write_lerobot(folder, episodes(), "v2.1")
    file = folder / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    frame = episodes()[1]["image.top"][row]
    rows[row]["observation.images.top"]["bytes"] = change(frame)
    pq.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), file)
    return folder


@pytest.mark.parametrize("case", CELLS)
def test_stills_that_are_something_else_are_refused(case: str, tmp_path: Path) -> None:
    change, said = CELLS[case]
    folder = with_cell(tmp_path / "set", 2, change)
    start = f"{folder}/data/chunk-000/episode_000001.parquet: observation.images.top in row 2 "
    got = refusal(folder)
    assert got.startswith(start)
    assert said in got
    images = read_dataset([folder], spec=SPEC).obs["image.top"]
    np.testing.assert_array_equal(images[:8], written("image.top")[:8])  # the others are well


def test_jpeg_and_grey_images_are_read(tmp_path: Path) -> None:
    folder = with_cell(tmp_path / "set", 2, lambda frame: png(frame, "JPEG"))
    expected = written("image.top")[8].astype(int)
    off = read_dataset([folder], spec=SPEC).obs["image.top"][8] - expected
    assert 0 < np.abs(off).mean() < 12
    grey = ObservationSpec.of({"state": 3, "image.top": (1, 12, 16)}, FPS)
    path = write_lerobot(tmp_path / "grey", episodes(grey))
    assert_holds(read_dataset([path], spec=grey), grey)


def test_a_column_without_bytes_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes(), "v2.1")
    for file in folder.glob("data/*/*"):
        table = pq.read_table(file)
        place = table.schema.get_field_index("observation.images.top")
        flat = pyarrow.array([[0.5] * 3] * len(table))
        pq.write_table(table.set_column(place, "observation.images.top", flat), file)
    said = "observation.images.top must hold bytes of PNG or JPEG files, got list<"
    assert f"episode_000000.parquet: {said}" in refusal(folder)


def info_with(folder: Path, **changes: Any) -> Path:
    file = folder / "meta/info.json"
    info = json.loads(file.read_text())
    info["features"]["observation.images.top"] |= changes
    file.write_text(json.dumps(info))
    return folder


SIZES: dict[str, dict[str, Any]] = {
    "channels first": {"shape": [3, 12, 16], "names": ["channels", "height", "width"]},
    "channels first without names": {"shape": [3, 12, 16], "names": None},
    "without names": {"names": None},
    "without a size": {"shape": None},
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_are_said_in_several_ways(case: str, tmp_path: Path) -> None:
    folder = info_with(write_lerobot(tmp_path / "set", episodes()), **SIZES[case])
    assert_holds(read_dataset([folder], spec=SPEC), SPEC)


def test_a_size_that_info_says_is_compared(tmp_path: Path) -> None:
    folder = info_with(write_lerobot(tmp_path / "set", episodes()), shape=[24, 32, 3])
    assert refusal(folder) == (
        f"{folder}/meta/info.json: observation.images.top must be of 3 x 12 x 16 pixels, "
        "got 3 x 24 x 32 pixels"
    )


VIDEO = "videos/chunk-000/observation.images.top/episode_000001.mp4"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def _scrambled(file: Path) -> None:
    content = bytearray(file.read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 600 : start + 1200] = bytes(600)
    file.write_bytes(content)


def _shorter(file: Path) -> None:
    write_video(file, episodes()[1]["image.top"][:3], FPS)


VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (lambda file: file.unlink(), "there is no such video"),
    "cut": (_cut, "the video cannot be decoded ("),
    "words": (lambda file: file.write_text("a film"), "the video cannot be decoded ("),
    "empty": (lambda file: file.write_bytes(b""), "the video cannot be decoded ("),
    "a playlist": (
        lambda file: file.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"),
        "the video cannot be decoded (",
    ),
    "scrambled": (_scrambled, "cannot be decoded ("),
    "too short": (
        _shorter,
        "a frame must be at 0.3000 s (step 3 of episode 1), the nearest is at 0.2000 s",
    ),
    "another rate": (
        lambda file: write_video(file, episodes()[1]["image.top"], 20),
        "a frame must be at 0.2000 s (step 2 of episode 1), the nearest is at 0.1500 s",
    ),
    "another size": (
        lambda file: write_video(file, frames(4, 1, (3, 24, 32)), FPS),
        "observation.images.top must be of 3 x 12 x 16 pixels, got 3 x 24 x 32 pixels",
    ),
}


@pytest.mark.parametrize("case", VIDEOS)
def test_videos_that_cannot_be_decoded_are_refused(case: str, tmp_path: Path) -> None:
    change, said = VIDEOS[case]
    folder = write_lerobot(tmp_path / "set", episodes(), "v2.1", "video")
    change(folder / VIDEO)
    got = refusal(folder)
    assert got.startswith(f"{folder}/{VIDEO}: ")
    assert said in got


def test_version_3_says_where_episodes_begin(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes(), "v3.0", "video")
    file = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 2), file)
    assert "meta/episodes says nothing of episode 2" in refusal(folder)
    start = "videos/observation.images.top/from_timestamp"
    pq.write_table(table.drop_columns([start]), file)
    assert f"no column {start}, it holds episode_index" in refusal(folder)
    file.unlink()
    assert "no meta/episodes/chunk-*/file-*.parquet in it" in refusal(folder)


@pytest.mark.parametrize("starts", [[0.0, 0.0, 0.0], [0.0, 0.1, 9.0]])
def test_episodes_of_a_video_are_apart(starts: list[float], tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes(), "v3.0", "video")
    file = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    key = "videos/observation.images.top/from_timestamp"
    place = table.schema.get_field_index(key)
    pq.write_table(table.set_column(place, key, pyarrow.array(starts)), file)
    said = "from_timestamp of meta/episodes must be where an episode begins: episode 0 has"
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([0, 1, 1], "episode 1: frame_index must count its frames from 0, got 1 for the 3. of"),
        ([0, 2, 3], "episode 1: frame_index must count its frames from 0, got 2 for the 2. of"),
        ([1, 2, 3], "episode 1: frame_index must count its frames from 0, got 1 for the 1. of"),
    ],
)
def test_each_frame_is_there_once(frames: list[int], said: str, tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "set", episodes(), "v2.1")
    file = folder / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    index = table["frame_index"].to_pylist()
    index[:3] = frames
    place = table.schema.get_field_index("frame_index")
    pq.write_table(table.set_column(place, "frame_index", pyarrow.array(index)), file)
    assert said in refusal(folder)
