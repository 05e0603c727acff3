"""The 50 worlds of Meta-World, and what the robot is to do in each."""

from __future__ import annotations

from difflib import get_close_matches

N_OBS, N_ACTION = 39, 4  # of every world

INSTRUCTIONS = {
    "assembly-v3": "Pick up the nut and put it over the peg.",
    "basketball-v3": "Pick up the ball and drop it into the basket.",
    "bin-picking-v3": "Move the puck from one bin into the other.",
    "box-close-v3": "Pick up the lid and put it on the box.",
    "button-press-topdown-v3": "Press the button from above.",
    "button-press-topdown-wall-v3": "Reach over the wall and press the button from above.",
    "button-press-v3": "Press the button.",
    "button-press-wall-v3": "Reach over the wall and press the button.",
    "coffee-button-v3": "Press the button of the coffee machine.",
    "coffee-pull-v3": "Pull the mug away from the coffee machine.",
    "coffee-push-v3": "Push the mug under the coffee machine.",
    "dial-turn-v3": "Turn the dial.",
    "disassemble-v3": "Lift the nut off the peg.",
    "door-close-v3": "Close the door.",
    "door-lock-v3": "Lock the door.",
    "door-open-v3": "Open the door.",
    "door-unlock-v3": "Unlock the door.",
    "drawer-close-v3": "Close the drawer.",
    "drawer-open-v3": "Open the drawer.",
    "faucet-close-v3": "Turn the faucet clockwise.",
    "faucet-open-v3": "Turn the faucet counter-clockwise.",
    "hammer-v3": "Hit the nail into the wall with the hammer.",
    "hand-insert-v3": "Put the hand into the hole.",
    "handle-press-side-v3": "Press the handle down from the side.",
    "handle-press-v3": "Press the handle down.",
    "handle-pull-side-v3": "Pull the handle up from the side.",
    "handle-pull-v3": "Pull the handle up.",
    "lever-pull-v3": "Pull the lever up.",
    "peg-insert-side-v3": "Put the peg into the hole from the side.",
    "peg-unplug-side-v3": "Pull the peg out of the hole to the side.",
    "pick-out-of-hole-v3": "Lift the puck out of the hole and bring it to the goal.",
    "pick-place-v3": "Pick up the puck and bring it to the goal.",
    "pick-place-wall-v3": "Pick up the puck and bring it over the wall to the goal.",
    "plate-slide-back-side-v3": "Slide the plate out of the cabinet to the side.",
    "plate-slide-back-v3": "Slide the plate out of the cabinet.",
    "plate-slide-side-v3": "Slide the plate into the cabinet from the side.",
    "plate-slide-v3": "Slide the plate into the cabinet.",
    "push-back-v3": "Pull the puck back to the goal.",
    "push-v3": "Push the puck to the goal.",
    "push-wall-v3": "Push the puck around the wall to the goal.",
    "reach-v3": "Reach the goal.",
    "reach-wall-v3": "Reach over the wall to the goal.",
    "shelf-place-v3": "Pick up the puck and put it on the shelf.",
    "soccer-v3": "Push the ball into the goal.",
    "stick-pull-v3": "Pull the thermos to the goal with the stick.",
    "stick-push-v3": "Push the thermos to the goal with the stick.",
    "sweep-into-v3": "Sweep the puck into the hole.",
    "sweep-v3": "Sweep the puck off the table.",
    "window-close-v3": "Close the window.",
    "window-open-v3": "Open the window.",
}
"""{Meta-World's name of a world: what the robot is to do}."""

FAMILY = "metaworld/"  # before a world's name in a checkpoint and a dataset


def check_env(env: str | None) -> str:
    """Refuse what is not one of the 50.

    Args:
        env: a world's name; None where nobody has said one.

    Returns:
        The name.

    Raises:
        ValueError: in one line, with the names that are like it, or all of them.

    Example:
        >>> check_env("push-v3")
        'push-v3'
        >>> check_env("pusj-v3")
        Traceback (most recent call last):
            ...
        ValueError: task.env must be one of Meta-World's 50 worlds, got 'pusj-v3': push-v3, \
push-wall-v3 or push-back-v3?
    """
    if env in INSTRUCTIONS:
        return env
    if env is None:
        raise ValueError(
            "task.env must name one of Meta-World's 50 worlds, got null (a checkpoint that was "
            f"trained here says which): {', '.join(INSTRUCTIONS)}"
        )
    like = [f"{env}-v3"] if f"{env}-v3" in INSTRUCTIONS else get_close_matches(env, INSTRUCTIONS)
    if not like:
        raise ValueError(
            f"task.env must be one of Meta-World's 50 worlds, got {env!r}: "
            f"{', '.join(INSTRUCTIONS)}"
        )
    *first, last = like
    either = f"{', '.join(first)} or {last}" if first else last
    raise ValueError(f"task.env must be one of Meta-World's 50 worlds, got {env!r}: {either}?")


def env_in(said: str) -> str | None:
    """The world in a checkpoint's name of its task, as `MetaworldTask.info` writes it.

    Example:
        >>> env_in("metaworld/push-v3"), env_in("metaworld"), env_in("metaworld/push-v2")
        ('push-v3', None, None)
    """
    env = said.removeprefix(FAMILY)
    return env if env in INSTRUCTIONS and env != said else None
