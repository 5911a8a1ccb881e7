"""Copying between stores: only what is missing, unchanged where that is right, and nothing from a damaged segment."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sharing_stores import OTHER, RECIPE, assert_clean, commits_of, contents_of, make_store, originals_of
from store.faulty_storage import Death, FaultyStorage, SimulatedCrash
from store.sample_rows import LAYOUTS, assert_right, files_of, sample_batch, sample_canaries, sample_keys, sample_recipe

from embedstore.errors import InputError, SpaceNotFoundError
from embedstore.sharing import SpaceCopy, pull, push, sync
from embedstore.store import SpaceStore
from embedstore.store.commits import CommitLog, condemn
from embedstore.store.documents import Commit, SegmentFormat
from embedstore.store.segment_files import SortedRows
from embedstore.store.signing import PublicKey, trust_of
from embedstore.upkeep import collect, compact


@pytest.mark.parametrize("layout", LAYOUTS)
def test_push_copies_segments_as_they_are(tmp_path: Path, layout: SegmentFormat) -> None:
    near = make_store(tmp_path / "near", range(10), range(10, 25), layout=layout)
    make_store(near.storage, range(7), recipe=OTHER, name="other", layout=layout)
    far = make_store(tmp_path / "far")
    report = push(near, far)
    assert (report.copied, report.skipped, report.complete) == (32, 0, True)
    assert contents_of(far) == contents_of(near)
    assert commits_of(far).isdisjoint(commits_of(near))
    assert far.space("toy").canaries.sequences == near.space("toy").canaries.sequences
    assert_right(far.space("toy"), sample_keys(range(25)))
    assert_right(far.space("other"), sample_keys(range(7)))
    assert_clean(far)
    again = push(near, far)
    assert (again.copied, again.skipped, again.size_bytes) == (0, 32, 0)


def test_what_overlaps_is_appended_with_its_share_of_the_cost(tmp_path: Path) -> None:
    near = make_store(tmp_path / "near", range(20), range(20, 30))
    far = make_store(tmp_path / "far", range(15))
    report = push(near, far)
    assert (report.copied, report.skipped) == (15, 15)
    assert_right(far.space("toy"), sample_keys(range(30)))
    assert len(contents_of(far) & contents_of(near)) == 1  # the segment that nothing of was there
    appended = [segment.commit for segment in far.space("toy").segments() if len(segment) == 5]
    assert appended[0].provenance["copied_from"]["store"] == near.id
    assert appended[0].provenance["letters"] == 25
    assert_clean(far)


def test_only_the_named_spaces_are_copied(tmp_path: Path) -> None:
    near = make_store(tmp_path / "near", range(3))
    make_store(near.storage, range(4), recipe=OTHER, name="other")
    far = make_store(tmp_path / "far")
    assert pull(far, near, ["other"]).copied == 4
    assert [space.name for space in far.spaces()] == ["other"]
    assert pull(far, near, [RECIPE.id[:10]]).copied == 3
    with pytest.raises(SpaceNotFoundError, match=r"No space 'third' in .*: other, toy"):
        pull(far, near, ["other", "third"])


def test_sync_brings_both_to_the_same_rows(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(10)), make_store(tmp_path / "far", range(6, 20))
    report = sync(near, far)
    assert [(space.direction, space.copied) for space in report.spaces] == [("pull", 10), ("push", 6)]
    for store in (near, far):
        assert_right(store.space("toy"), sample_keys(range(20)))
        assert_clean(store)
    assert sync(near, far).copied == 0


def test_a_dry_run_counts_each_row_once_and_copies_nothing(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(20), range(20, 30)), make_store(tmp_path / "far", range(15))
    make_store(near.storage, range(4), recipe=OTHER, name="other")
    before = files_of(tmp_path / "far")
    planned = push(near, far, dry_run=True)
    assert (planned.copied, planned.skipped, planned.dry_run) == (19, 15, True)
    assert files_of(tmp_path / "far") == before
    done = push(near, far)
    assert (done.copied, done.skipped) == (planned.copied, planned.skipped)
    assert [space.size_bytes for space in done.spaces] == [space.size_bytes for space in planned.spaces]


def test_a_name_taken_by_another_recipe_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    near = make_store(tmp_path / "near", range(3))
    make_store(near.storage, range(4), recipe=OTHER, name="other")
    far = make_store(tmp_path / "far", range(2), recipe=sample_recipe(model="third"), name="toy")
    report = push(near, far)
    assert not report.complete
    problems = {space.name: space.problems for space in report.spaces}
    assert "was made by another recipe" in problems["toy"][0].reason
    assert problems["other"] == []
    assert report.copied == 4


def test_the_same_recipe_under_another_name_is_the_same_space(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(3)), make_store(tmp_path / "far", range(2), name="tiny")
    assert push(near, far).copied == 1
    assert [space.name for space in far.spaces()] == ["tiny"]


def test_a_store_is_not_copied_to_itself(tmp_path: Path) -> None:
    near = make_store(tmp_path / "near", range(3))
    with pytest.raises(InputError, match="to itself"):
        push(near, SpaceStore.open(tmp_path / "near"))


def test_merged_segments_come_over_without_making_others_dead(tmp_path: Path) -> None:
    near, third = make_store(tmp_path / "near", range(5), range(5, 9)), make_store(tmp_path / "third")
    push(near, third)
    compact(near.space("toy"))
    far = make_store(tmp_path / "far")
    assert push(near, far).copied == 9
    merged = far.space("toy").segments()[0].commit
    assert merged.replaces == ()
    assert contents_of(far) == contents_of(near)
    assert push(third, far).copied == 0
    assert_right(far.space("toy"), sample_keys(range(9)))
    assert_clean(far)


def test_segments_that_are_merged_and_collected_meanwhile_are_copied_as_what_they_became(tmp_path: Path) -> None:
    near = make_store(tmp_path / "near", *(range(start, start + 5) for start in range(0, 30, 5)))
    far = make_store(tmp_path / "far")
    other = SpaceStore.open(tmp_path / "near")

    def merge_all(done: SpaceCopy) -> None:
        if done.copied == 10 and done.skipped == 0:
            compact(other.space("toy"))
            for _ in range(2):
                collect(other.storage, grace_s=0)

    report = push(near, far, on_copied=merge_all)
    assert len(SpaceStore.open(tmp_path / "near").space("toy").segments()) == 1
    assert (report.copied, report.complete) == (30, True)
    assert_right(far.space("toy"), sample_keys(range(30)))
    assert_clean(far)


def replace_by_part(store: SpaceStore, numbers: range) -> None:
    """Publish some rows of the only segment in its place, and collect it, as a repair of a damaged one does."""
    space = store.space("toy")
    old = space.segments()[0]

    def write() -> Commit:
        files = space.write_files(SortedRows.of(sample_batch(sample_keys(numbers), RECIPE)))
        return files.commit(space.id, old.commit.created_ns, old.commit.provenance, [old.commit_id])

    space.publish(write)
    for file in (f"commits/{old.commit_id}.json", *old.commit.files):
        store.storage.delete(f"{space.folder}{file}")


def test_a_segment_that_is_replaced_at_the_destination_brings_what_is_missing_there(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(6)), make_store(tmp_path / "far")
    push(near, far)
    replace_by_part(far, range(4))
    far = SpaceStore.open(tmp_path / "far")
    assert len(far.space("toy")) == 4
    assert push(near, far).copied == 2
    assert_right(SpaceStore.open(tmp_path / "far").space("toy"), sample_keys(range(6)))


def test_a_segment_whose_files_are_condemned_comes_under_other_names(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(6)), make_store(tmp_path / "far")
    space = near.space("toy")
    far.create_space(RECIPE, "toy", sample_canaries(RECIPE))
    condemn(far.storage, space.folder, list(space.segments()[0].commit.files))
    assert push(near, far).copied == 6
    assert commits_of(far).isdisjoint(commits_of(near))
    assert_right(far.space("toy"), sample_keys(range(6)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("what", ["vectors", "key"])
def test_a_damaged_segment_is_reported_and_the_rest_is_copied(tmp_path: Path, layout: SegmentFormat, what: str) -> None:
    near = make_store(tmp_path / "near", range(10), range(10, 25), layout=layout)
    far = make_store(tmp_path / "far")
    first = near.space("toy").segments()[0]
    part = first.commit.arrays[what][0]
    path = tmp_path / "near" / first._folder / part.file
    content = bytearray(path.read_bytes())
    content[part.offset + 3] ^= 1
    path.write_bytes(content)
    report = push(SpaceStore.open(tmp_path / "near"), far)
    assert not report.complete
    assert [problem.file for problem in report.spaces[0].problems] == [f"{first._folder}{part.file}"]
    assert (report.copied, report.skipped) == (15, 0)
    assert_right(far.space("toy"), sample_keys(range(10, 25)))
    assert len(far.space("toy")) == 15
    assert_clean(far)


def test_a_damaged_row_of_a_segment_that_overlaps_is_not_copied(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(10), range(10, 12)), make_store(tmp_path / "far", range(4))
    first = near.space("toy").segments()[0]
    part = first.commit.arrays["vectors"][0]
    missing = np.flatnonzero(~far.space("toy").contains(first.keys))
    path = tmp_path / "near" / first._folder / part.file
    content = bytearray(path.read_bytes())
    content[part.offset + int(missing[0]) * first.row_bytes] ^= 1
    path.write_bytes(content)
    report = push(SpaceStore.open(tmp_path / "near"), far)
    assert not report.complete
    assert (report.copied, report.skipped) == (2, 4)
    assert_right(far.space("toy"), far.space("toy").keys())


@pytest.mark.parametrize("gone", ["data", "commit", "truncated"])
def test_what_is_gone_at_the_source_is_reported(tmp_path: Path, gone: str) -> None:
    near, far = make_store(tmp_path / "near", range(10), range(10, 25)), make_store(tmp_path / "far")
    first = near.space("toy").segments()[0]
    path = tmp_path / "near" / first._folder / first.commit.arrays["key"][0].file
    if gone == "data":
        path.unlink()
    elif gone == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        (tmp_path / "near" / first._folder / "commits" / f"{first.commit_id}.json").write_bytes(b"{}")
    report = push(SpaceStore.open(tmp_path / "near"), far)
    assert len(report.spaces[0].problems) == 1
    assert report.copied == 15
    assert_right(far.space("toy"), sample_keys(range(10, 25)))
    assert_clean(far)


def test_a_damaged_space_document_does_not_keep_the_others(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(3)), make_store(tmp_path / "far")
    make_store(near.storage, range(4), recipe=OTHER, name="other")
    (tmp_path / "near" / "spaces" / OTHER.id / "space.json").write_bytes(b"{}")
    report = push(SpaceStore(near.storage), far)
    assert (report.copied, report.complete) == (3, False)


def test_what_a_stopped_copy_left_is_compared_and_not_trusted(tmp_path: Path) -> None:
    near, far = make_store(tmp_path / "near", range(10)), make_store(tmp_path / "far")
    commit = near.space("toy").segments()[0]
    for number, file in enumerate(commit.commit.files):
        left = tmp_path / "far" / commit._folder / file
        left.parent.mkdir(parents=True, exist_ok=True)
        content = (tmp_path / "near" / commit._folder / file).read_bytes()
        left.write_bytes(bytes(len(content)) if number == 0 else content)
    assert push(near, far).copied == 10
    assert commits_of(far).isdisjoint(commits_of(near))
    assert_right(far.space("toy"), sample_keys(range(10)))
    assert_clean(far)


@pytest.mark.parametrize("death", Death, ids=lambda death: death.value)
def test_a_copy_that_dies_at_any_step_is_taken_up_again(tmp_path: Path, death: Death) -> None:
    near = make_store(tmp_path / "near", range(8), range(8, 14), layout="hdf5")
    start = tmp_path / "start"
    make_store(start, range(5, 10), layout="hdf5")
    make_store(start, range(30, 32), recipe=OTHER, name="other", layout="hdf5")
    make_store(near.storage, range(30, 34), range(34, 36), recipe=OTHER, name="other", layout="hdf5")
    counted = FaultyStorage(shutil.copytree(start, tmp_path / "counted"))
    assert push(near, SpaceStore(counted)).copied == 13
    for step, operation in enumerate(counted.steps):
        if operation not in ("write", "delete") and (death is not Death.BEFORE or step % 6):
            continue
        place = shutil.copytree(start, tmp_path / f"store{step}")
        with pytest.raises(SimulatedCrash):
            push(near, SpaceStore(FaultyStorage(place, step, death)))
        assert_clean(place)
        report = push(near, SpaceStore.open(place))
        assert report.complete
        far = SpaceStore.open(place)
        assert_right(far.space("toy"), sample_keys(range(14)))
        assert_right(far.space("other"), sample_keys(range(30, 36)))
        assert len(CommitLog(far.storage, far.space("toy").folder).read().readable) >= 3
        assert_clean(place)


def sign_keys(folder: Path, *names: str) -> Path:
    """Write a private key of each name, and `members` that lists them."""
    public = []
    for name in names:
        key = Ed25519PrivateKey.generate()
        (folder / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public.append(PublicKey(key.public_key().public_bytes_raw()).text)
    (folder / "members").write_text("\n".join(public))
    return folder


def test_signatures_are_copied_and_unsigned_commits_are_not(tmp_path: Path) -> None:
    keys = sign_keys(tmp_path, "alice")
    make_store(tmp_path / "near", range(4))  # by nobody
    signed = SpaceStore.open(tmp_path / "near", trust=trust_of(keys / "alice"))
    signed.space("toy").append(sample_batch(sample_keys(range(4, 10)), RECIPE))
    members = trust_of(require_signed=keys / "members")
    near = SpaceStore.open(tmp_path / "near", trust=members)
    far = SpaceStore.open(tmp_path / "far", create=True)
    assert push(near, far).copied == 6
    reader = SpaceStore.open(tmp_path / "far", trust=members).space("toy")
    assert_right(reader, sample_keys(range(4, 10)))
    assert reader.ignored_commits == 0
    assert originals_of(far) < commits_of(SpaceStore.open(tmp_path / "near"))


def test_a_copier_signs_what_nobody_vouches_for_at_the_destination(tmp_path: Path) -> None:
    keys = sign_keys(tmp_path, "alice")
    near = make_store(tmp_path / "near", range(4))
    trust = trust_of(keys / "alice", keys / "members")
    make_store(tmp_path / "far")
    refused = push(near, SpaceStore.open(tmp_path / "far"))  # nothing is required there: as it is
    assert refused.copied == 4
    far = SpaceStore.open(tmp_path / "far", trust=trust)
    assert push(near, far).copied == 4
    assert_right(SpaceStore.open(tmp_path / "far", trust=trust).space("toy"), sample_keys(range(4)))
    third = SpaceStore.open(tmp_path / "third", create=True)
    third.create_space(RECIPE, "toy", sample_canaries(RECIPE))
    unsigned = push(near, SpaceStore.open(tmp_path / "third", trust=trust_of(require_signed=keys / "members")))
    assert (unsigned.copied, unsigned.complete) == (0, False)
