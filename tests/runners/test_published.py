"""Published runs: each is there once, and a study reads what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from runners.errors import UserError
from runners.places import RESULTS
from runners.report.build import write_report
from runners.store.folder import read_episodes
from runners.store.published import (
    RUNS,
    STUDIES,
    Entry,
    published,
    published_run,
    read_list,
    write_list,
)
from runners.store.reading import is_evaluation
from runners.studies.comparisons import ReportConfig
from runners.studies.study import read_study
from tests.helpers.study_folder import STARTER, copy_starter

LISTS = sorted((RESULTS / STUDIES).glob("*.yaml"))
PLAIN = "kitchen_none_none_s0_9e9c9744"


@pytest.mark.parametrize("path", LISTS, ids=[path.stem for path in LISTS])
def test_every_run_of_a_study_is_whole(path: Path) -> None:
    for kept in published(path):
        run = kept.run()
        assert run.config["fingerprint"] == kept.name.rpartition("_")[2]
        assert run.result["fingerprint"] == run.config["fingerprint"]
        if is_evaluation(run):
            assert run.whole
            assert run.result["n_episodes"] == kept.entry.n_episodes


def test_every_run_belongs_to_a_study_and_every_file_of_a_study_to_a_run() -> None:
    listed = {name for path in LISTS for name in read_list(path)}
    assert {path.name for path in (RESULTS / RUNS).iterdir()} == listed
    for own in (RESULTS / STUDIES).glob("*/*.result.json"):
        assert own.name.partition(".")[0] in read_list(own.parent.with_suffix(".yaml"))


def test_a_study_has_its_own_number_of_episodes_latency_and_fields() -> None:
    runs = {}
    for study in ("caches", "reference"):
        kept = published_run(RESULTS, study, PLAIN)
        assert kept is not None
        runs[study] = kept.run()
    caches, reference = runs["caches"], runs["reference"]
    assert (len(caches.ok), len(reference.ok)) == (200, 300)
    assert caches.folder == reference.folder
    assert caches.result["latency"] is None
    assert reference.result["latency"]["batch"] == 1
    assert all("embodied" not in record for record in reference.ok.values())
    assert all("embodied" in record for record in read_episodes(reference.folder).values())


def test_a_time_belongs_to_the_result_beside_it() -> None:
    frontier = published_run(RESULTS, "frontier", PLAIN)
    reference = published_run(RESULTS, "reference", PLAIN)
    assert frontier is not None
    assert reference is not None
    assert frontier.path("time.json").exists()
    assert not reference.path("time.json").exists()


def test_a_run_counts_in_studies_that_list_it_only() -> None:
    assert published_run(RESULTS, "quantised", "kitchen_none_none_s0_d9d37ebe") is None
    assert published_run(RESULTS, RUNS, PLAIN) is None
    assert published_run(RESULTS / "nowhere", "reference", PLAIN) is None


def test_a_list_is_read_as_a_folder_is(tmp_path: Path) -> None:
    folder = copy_starter(tmp_path / "starter")
    (tmp_path / RUNS).symlink_to(RESULTS / RUNS)
    (tmp_path / STUDIES).mkdir()
    listing = tmp_path / STUDIES / "starter.yaml"
    listing.write_bytes(STARTER.read_bytes())
    texts = []
    for study in (folder, listing):
        files = {path.name: path for path in write_report(study, ReportConfig())}
        texts.append(files["report.md"].read_text())
        assert files["report.md"].parent == study.with_suffix("") / "report"
    assert texts[0] == texts[1]


def test_a_list_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / STUDIES).mkdir()
    listing = tmp_path / STUDIES / "mine.yaml"
    with pytest.raises(UserError, match="must be a list of runs, there is none at"):
        read_study(listing)
    entries = {"b": Entry(5, ("embodied", "machine")), "a": Entry()}
    write_list(listing, entries)
    assert read_list(listing) == entries
    with pytest.raises(UserError, match="must list runs of"):
        read_study(listing)
