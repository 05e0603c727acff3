"""What a dataset calls its numbers, compared with the task's observation."""

from __future__ import annotations

import random

import pytest

from policies.data.observation_order import Field, column_order, says_nothing

PARTS = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
SIZES = {"object": 10, "eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2}


def keys(*names: str, sizes: dict[str, int] = PARTS) -> list[Field]:
    return [Field(name, sizes[name]) for name in names]


def state(*names: str) -> list[Field]:
    return [Field("observation.state", 19, names)]


def numbered(*parts: str, first: int = 0) -> list[str]:
    sizes = PARTS | SIZES
    return [f"{part}_{i + first}" for part in parts for i in range(sizes[part])]


def test_the_tasks_own_order_is_left_alone() -> None:
    for fields in (
        keys(*PARTS),
        keys(*SIZES, sizes=SIZES),
        [Field(f"observation.{name}", size) for name, size in PARTS.items()],
        state(*numbered(*PARTS)),
        state(*numbered(*PARTS, first=1)),
        state(*PARTS),
        [Field("obs", 19)],
        [Field("observation.state", 19, ("state",))],
        state(*(f"motor_{i}" for i in range(19))),
        [Field("cube", 10), Field("hand", 3), Field("turn", 4), Field("fingers", 2)],
        keys("object"),  # its length is refused elsewhere
    ):
        assert column_order(fields, PARTS) is None


def test_any_order_of_named_numbers_is_sorted() -> None:
    wanted = numbered(*PARTS)
    shuffle = random.Random(0)
    for _ in range(20):
        names = shuffle.sample(wanted, 19)
        order = column_order(state(*names), PARTS)
        assert order is not None
        assert [names[i] for i in order] == wanted
    one_based = numbered("robot0_gripper_qpos", "object", "eef_pos", "eef_quat", first=1)
    order = column_order(state(*one_based), PARTS)
    assert order == [*range(2, 19), 0, 1]


@pytest.mark.parametrize("separator", ["_", ".", "/", "-", ":", " "])
def test_axes_and_groups_are_understood(separator: str) -> None:
    quat = [f"robot0_eef_quat{separator}{axis}" for axis in "wxyz"]
    hand = [f"robot0_eef_pos{separator}{axis}" for axis in "XYZ"]
    gripper = [f"motors/robot0_gripper_qpos{separator}{i}" for i in (0, 1)]
    cube = [f"object{separator}{name}" for name in "abcdefghij"]  # says nothing of their order
    order = column_order(state(*cube, *quat, *hand, *gripper), PARTS)
    assert order == [*range(10), 14, 15, 16, 11, 12, 13, 10, 17, 18]


def test_blocks_are_sorted_by_their_sizes() -> None:
    order = column_order(state("eef_pos", "eef_quat", "gripper_qpos", "object"), PARTS)
    assert order == [*range(9, 19), *range(9)]


def test_the_numbers_of_one_field_have_names_of_their_own() -> None:
    fields = [Field(name, size) for name, size in PARTS.items()]
    fields[2] = Field("robot0_eef_quat", 4, ("w", "x", "y", "z"))
    with pytest.raises(ValueError, match="an observation must be object"):
        column_order(fields, PARTS)
    fields[2] = Field("robot0_eef_quat", 4, ("x", "y", "z", "w"))
    assert column_order(fields, PARTS) is None


REFUSED = {
    "two exchanged": keys("robot0_eef_pos", "object", "robot0_eef_quat", "robot0_gripper_qpos"),
    "as people list them": keys(
        "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"
    ),
    "short names": [
        Field("eef_quat", 4),
        Field("gripper", 2),
        Field("eef_pos", 3),
        Field("object", 10),
    ],
    "other names in another order": [
        Field("turn", 4),
        Field("fingers", 2),
        Field("hand", 3),
        Field("cube", 10),
    ],
    "only one is known": [Field("a", 3), Field("object", 10), Field("b", 4), Field("c", 2)],
    "twice": [Field("object", 10), *(Field("robot0_eef_pos", 3) for _ in range(3))],
    "known ones stand elsewhere": state(*numbered("eef_pos"), *(f"c{i}" for i in range(16))),
    "known ones are turned": state(
        *(f"c{i}" for i in range(10)), "eef_pos_z", "eef_pos_y", "eef_pos_x", *"abcdef"
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_the_task_is_refused(case: str) -> None:
    with pytest.raises(ValueError, match=r"an observation must be object \(10\), robot0_eef_pos"):
        column_order(REFUSED[case], PARTS)


def test_a_task_without_parts() -> None:
    parts = {"obs": 12}
    names = tuple(f"obs_{i}" for i in (11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8))
    assert column_order([Field("observation.state", 12, names)], parts) == [*range(3, 12), 2, 1, 0]
    assert column_order([Field("state", 12)], parts) is None


def test_names_that_say_nothing_are_noticed() -> None:
    assert says_nothing(state(*(f"motor_{i}" for i in range(19))), PARTS)
    assert not says_nothing(state(*numbered(*PARTS)), PARTS)
    assert not says_nothing([Field("obs", 19)], PARTS)
