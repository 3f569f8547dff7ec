"""The moving picture of the README: ``python -m tests.docs.moving_picture`` draws it anew.

Sixteen picks by strict priority, then sixteen by the token rule, while HIGH never empties. Which
job is next is asked of ``final``'s own lanes, so the picture shows what the code does. It moves by
CSS alone: no script. For readers who have asked for less motion there is its end, which stands
still (the README names both: a picture inside a page does not hear of that wish everywhere).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from final.job import Priority, Task
from final.ledger.lanes import Lanes

IMAGES = Path(__file__).parents[2] / "docs" / "img"

PICKS = 16
FAIRNESS = 3  # final's default is 10, for which the picture would have to be longer
WAITING = 6  # jobs in each lane at the beginning; HIGH gets a new one for each that leaves

# Seconds.
PICK, MOVE = 0.45, 0.16
ACT = PICKS * PICK + 1.6
LENGTH = 2 * ACT + 1.0

# Where things are.
LANE_Y = {Priority.HIGH: 72, Priority.MEDIUM: 110, Priority.LOW: 148}
HEAD_X, PLACE, WORKER = 378, 32, (500, 110)
TAPE_X, TAPE_Y, SLOT = 172, {None: 206, FAIRNESS: 242}, 36


@dataclass
class Square:
    """A job's way through the picture: (second, x, y, opacity), in order."""

    priority: Priority
    way: list[tuple[float, float, float, float]] = field(default_factory=list)

    def go(self, second: float, x: float, y: float) -> None:
        self.way.append((second, x, y, 1))

    def fade(self, second: float, opacity: float) -> None:
        _, x, y, _ = self.way[-1]
        self.way.append((second, x, y, opacity))


def act(begins: float, fairness: int | None) -> list[Square]:
    """The squares of one rule, from the second ``begins`` on."""
    lanes = Lanes(capacity=WAITING, fairness=fairness)
    squares: dict[int, Square] = {}
    waiting: dict[Priority, list[int]] = {priority: [] for priority in Priority}

    def enqueue(priority: Priority, second: float) -> None:
        number = len(squares)
        lanes.add(Task(f"job-{number}", "", priority, "default", key=number))
        squares[number] = Square(priority)
        x = HEAD_X - PLACE * len(waiting[priority])
        squares[number].way.append((second, x, LANE_Y[priority], 0))
        squares[number].fade(second + MOVE, 1)
        waiting[priority].append(number)

    for priority in Priority:
        for _ in range(WAITING):
            enqueue(priority, begins)
    for pick in range(PICKS):
        now = begins + 0.8 + pick * PICK
        task = lanes.pick()
        assert task
        lane = waiting[task.priority]
        taken = squares[lane.pop(0)]
        taken.go(now, *WORKER)
        taken.go(now + PICK, TAPE_X + SLOT * pick, TAPE_Y[fairness])
        for place, number in enumerate(lane):
            squares[number].go(now, HEAD_X - PLACE * place, LANE_Y[task.priority])
        if task.priority is Priority.HIGH:
            enqueue(Priority.HIGH, now)
    left = [number for lane in waiting.values() for number in lane]
    for number in left if fairness is None else []:
        squares[number].fade(begins + ACT - MOVE, 0)
    return list(squares.values())


def pictures() -> dict[Path, str]:
    """The files, and what belongs into them: the same each time."""
    return {
        IMAGES / "starvation.svg": _draw(moving=True),
        IMAGES / "starvation-still.svg": _draw(moving=False),
    }


def _draw(moving: bool) -> str:
    squares = [*act(0, None), *act(ACT, FAIRNESS)]
    styles, shapes = [], []
    for number, square in enumerate(squares):
        _, x, y, opacity = square.way[-1]
        name = f"s{number}"
        animation = f";animation-name:{name}" if moving else ""
        styles.append(f"@keyframes {name}{{{_keyframes(square)}}}")
        shapes.append(
            f'<g class="job {square.priority}" style="transform:translate({x:g}px,{y:g}px);'
            f'opacity:{opacity:g}{animation}"><rect x="-11" y="-11" width="22" height="22" '
            f'rx="5"/><text y="4">{square.priority.value[0].upper()}</text></g>'
        )
    lanes = [
        f'<text class="label" x="20" y="{y + 5}">{priority.name}</text>'
        f'<rect class="lane" x="112" y="{y - 16}" width="286" height="32" rx="8"/>'
        for priority, y in LANE_Y.items()
    ]
    return _PICTURE.format(
        length=f"{LENGTH:g}",
        change=f"{100 * ACT / LENGTH:.1f}",
        after=f"{100 * ACT / LENGTH + 0.1:.1f}",
        keyframes="\n".join(styles) if moving else _STILL,
        lanes="\n".join(lanes),
        squares="\n".join(shapes),
        strict=TAPE_Y[None] + 5,
        fair=TAPE_Y[FAIRNESS] + 5,
        fairness=FAIRNESS,
        strict_title="Strict priority: the most urgent lane, always. LOW starves.",
        fair_title=f"The token rule: passed over {FAIRNESS} times in a row? Then it is your turn.",
    )


def _keyframes(square: Square) -> str:
    """Each state is kept until the next begins, and a change takes MOVE seconds."""
    first = square.way[0]
    frames = [_frame(0, *first[1:3], 0)]
    before = (*first[1:3], 0.0)
    for second, x, y, opacity in square.way:
        frames += [_frame(second, *before), _frame(second + MOVE, x, y, opacity)]
        before = (x, y, opacity)
    frames += [_frame(LENGTH - 0.5, *before), _frame(LENGTH, *before[:2], 0)]
    return "".join(frames)


def _frame(second: float, x: float, y: float, opacity: float) -> str:
    percent = f"{min(100, 100 * second / LENGTH):.2f}".rstrip("0").rstrip(".")
    return f"{percent}%{{transform:translate({x:g}px,{y:g}px);opacity:{opacity:g}}}"


_STILL = ".job,.strict,.fair{animation:none}"

_PICTURE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 268" role="img" aria-labelledby="t d">
<title id="t">Strict priority starves LOW; the token rule does not</title>
<desc id="d">Three lanes and one worker, while HIGH never empties. By strict priority only HIGH
jobs start. By the token rule a lane that was passed over {fairness} times in a row goes first, so
MEDIUM and LOW have their turns.</desc>
<style>
text{{font:600 13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#24292f}}
.title{{font-size:16px}}
.job{{animation:{length}s linear infinite}}
.job text{{font-size:12px;fill:#fff;text-anchor:middle}}
.high rect{{fill:#d55e00}}.medium rect{{fill:#009e73}}.low rect{{fill:#0072b2}}
.lane,.worker{{fill:none;stroke:#8c959f;stroke-width:1.5}}
.strict{{opacity:0;animation:strict {length}s linear infinite}}
.fair{{animation:fair {length}s linear infinite}}
@keyframes strict{{0%,{change}%{{opacity:1}}{after}%,100%{{opacity:0}}}}
@keyframes fair{{0%,{change}%{{opacity:0}}{after}%,100%{{opacity:1}}}}
@media (prefers-color-scheme:dark){{text{{fill:#e6edf3}}}}
@media (prefers-reduced-motion:reduce){{.job,.strict,.fair{{animation:none}}}}
{keyframes}
</style>
<text class="title strict" x="20" y="30">{strict_title}</text>
<text class="title fair" x="20" y="30">{fair_title}</text>
{lanes}
<rect class="worker" x="450" y="80" width="100" height="60" rx="10"/>
<text x="450" y="72">worker</text>
<text class="label" x="20" y="{strict}">started, strict</text>
<text class="label" x="20" y="{fair}">started, tokens</text>
{squares}
</svg>
"""

if __name__ == "__main__":
    for file, picture in pictures().items():
        file.write_text(picture, encoding="utf-8", newline="\n")
        print(f"Drawn: {file.name}")
