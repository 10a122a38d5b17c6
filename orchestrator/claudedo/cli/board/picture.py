"""What the live list looks like: rows of text, drawn from what the worker told.

Pure: the same facts, width and moment give the same rows, each no wider than asked for. Whatever
came from sessions, tasks and repositories is neutralised here and never read as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rich.cells import chop_cells
from rich.text import Text

from claudedo.cli import ask_view, refusal, render
from claudedo.model import Assignee, TaskStatus

Json = dict[str, Any]

MARK = "> "
_NO_MARK = "  "
_GAP = "  "
_STATE_WIDTH = 11  # "interrupted"
_KIND_WIDTH = 10  # "permission"
_AGE_WIDTH = 4
_WHY_MIN, _WHY_GOOD = 12, 26
_BRANCH_MIN = 10
_GLANCE = 2000  # characters of an ask's body of which two lines are made
_LEAST_COST = 0.005  # dollars; less is shown as nothing
_NAME_MIN, _NAME_MAX = 8, 24


@dataclass(frozen=True)
class Situation:
    """What the worker told at one moment: the lists of `ls --json` and `asks --json`."""

    tasks: tuple[Json, ...] = ()
    asks: tuple[Json, ...] = ()

    def ask(self, ask_id: str) -> Json | None:
        """The open ask with this id."""
        return next((ask for ask in self.asks if ask["id"] == ask_id), None)

    def task(self, task_id: str) -> Json | None:
        """The task with this id."""
        return next((task for task in self.tasks if task["id"] == task_id), None)


@dataclass(frozen=True)
class Row:
    """One line of the list. Only rows with a key can be chosen."""

    text: Text
    key: str | None = None
    task: Json | None = None
    ask: Json | None = None
    whole: bool = False  # there is no more to see of the ask than this line shows

    def chosen(self) -> Text:
        """The line while the cursor is on it; the mark tells it without reverse video, too."""
        text = Text(MARK, no_wrap=True, end="")
        text.append_text(self.text[len(_NO_MARK) :])
        text.truncate(self.text.cell_len)
        text.stylize("reverse")
        return text


@dataclass(frozen=True)
class _Column:
    head: str
    width: int
    cells: Sequence[Text]
    right: bool = field(default=False)

    def cell(self, index: int) -> Text:
        return _fitted(self.cells[index], self.width, right=self.right)


def rows(situation: Situation, width: int, now: float) -> list[Row]:
    """The whole list: asks, oldest first, then the tasks with their sessions.

    `now` is the time in seconds since the epoch, for ages. Every row is `width` cells wide at most.
    """
    drawn = [*_ask_rows(situation, width, now), *_task_rows(situation, width, now)]
    if not situation.tasks:
        drawn.append(_plain("No tasks yet. In a git repository, start one:", width))
        drawn.append(_plain("claudedo start NAME", width, "bold"))
    return drawn


def asking(width: int) -> Text:
    """The first line of the screen while nothing is known yet."""
    text = Text("claudedo", "bold").append("  Asking the worker …", "not bold")
    return _fitted(text, width)


def summary(situation: Situation, width: int) -> Text:
    """The first line of the screen: how much there is, and how much of it waits."""
    parts = [_count(len([t for t in situation.tasks if t["supervised"]]), "task")]
    states = [
        stands[0] if (stands := render.in_queue(task)) else (task["session"] or {}).get("state")
        for task in situation.tasks
    ]
    parts += [
        f"{states.count(state)} {state}"
        for state in ("busy", "idle", "waiting", "starting", "queued", "failed", "interrupted")
        if state in states
    ]
    text = Text(end="", no_wrap=True).append("claudedo", "bold")
    if situation.asks:
        text.append(f"  {_count(len(situation.asks), 'ask')} for you", "bold magenta")
    text.append(f"  {parts[0]}" + (f": {', '.join(parts[1:])}" if parts[1:] else ""))
    return _fitted(text, width)


def details(row: Row | None, width: int) -> list[Text]:
    """Two lines about the row under the cursor: what its line had no room for."""
    if row is None or row.key is None:
        return [_fitted(Text(), width)] * 2
    if row.ask is not None and (changed := _changed_lines(row.ask)):
        return [_fitted(Text(line, style="dim"), width) for line in changed]
    if row.ask is not None:
        parts = [row.ask.get("agent") and f"agent {row.ask['agent']}", row.ask["body"][:_GLANCE]]
    else:
        parts = _task_details(row.task or {})
    text = " · ".join(render.line(str(part)) for part in parts if part)
    lines = chop_cells(text, max(1, width)) or [""]
    rest = "".join(lines[1:])
    return [_fitted(Text(line, style="dim"), width) for line in (lines[0], rest)]


def _changed_lines(ask: Json) -> list[str]:
    """The first two lines that an edit would change; none if the body is no difference."""
    lines = render.neutral(ask["body"][:_GLANCE]).expandtabs().split("\n")
    for number, (above, line) in enumerate(pairwise(lines), 1):
        if above.startswith("+++ ") and line.startswith("@@ "):
            changed = [one for one in lines[number:] if one[:1] in ("-", "+")]
            return [*changed, ""][:2] if changed else []
    return []


def _task_details(task: Json) -> list[str | None]:
    session = task["session"] or {}
    usage = session.get("usage") or {}
    cost = usage.get("cost_usd")
    peers = ", ".join(task.get("peers") or ())
    return [
        why(task).plain,
        f"{task['pending']} unread" if task["pending"] else None,
        f"{usage['context_tokens']:,} tokens in context" if usage.get("context_tokens") else None,
        _dollars(cost),
        task.get("branch"),
        peers and f"peers: {peers}",
        task.get("worktree"),
    ]


def _ask_rows(situation: Situation, width: int, now: float) -> list[Row]:
    if not situation.asks:
        return []
    several = _several(situation)
    names = [_ask_name(ask, several) for ask in situation.asks]
    name_width = _name_width(names, width)
    room = width - len(_NO_MARK) - _AGE_WIDTH - name_width - _KIND_WIDTH - 3 * len(_GAP)
    endings = [_others(ask) for ask in situation.asks]
    with_kind = room - max(map(len, endings)) >= _WHY_MIN
    drawn = [_heading("ASKS", width)]
    for ask, name, ending in zip(situation.asks, names, endings, strict=True):
        cells = [
            _fitted(Text(render.age(ask["opened_at"], now)), _AGE_WIDTH, right=True),
            _fitted(Text(name, style="bold"), name_width),
            *([_fitted(Text(str(ask["kind"]), style="magenta"), _KIND_WIDTH)] * with_kind),
        ]
        title = Text(render.line(ask["title"]))
        left = width - len(_NO_MARK) - sum(cell.cell_len + len(_GAP) for cell in cells)
        left -= len(ending)
        whole = title.cell_len <= left and says_all(ask)
        if title.cell_len > left > 0:
            title = _fitted(title, left)
        row = _line([*cells, title + Text(ending)], width)
        drawn.append(Row(row, f"ask {ask['id']}", situation.task(ask["task"]), ask, whole))
    drawn.append(_plain("", width))
    return drawn


def _others(ask: Json) -> str:
    """What stands behind the title and is never cut: how many more questions, and the same."""
    more, same = len(ask_view.questions(ask)) - 1, len(ask.get("same") or ())
    questions = f" (+{_count(more, 'question')})" if more > 0 else ""
    return questions + (f" (+{same} the same)" if same else "")


def _ask_name(ask: Json, several: bool) -> str:
    name = render.line(ask.get("task_name") or ask["task"])
    return f"{render.line(ask['workspace'])}/{name}" if several else name


def says_all(ask: Json) -> bool:
    """True if the title of the ask is all that it is about: a short command and nothing else."""
    given = ask.get("input") or {}
    command = given.get("command")
    return (
        ask["kind"] == "permission"
        and set(given) <= {"command", "description", "timeout"}
        and isinstance(command, str)
        and ask["title"] == f"{ask['tool']}: {command}"
        and render.line(command) == command
    )


def _task_rows(situation: Situation, width: int, now: float) -> list[Row]:
    tasks = situation.tasks
    if not tasks:
        return []
    columns = _columns(situation, width, now)
    head = Text(_NO_MARK, style="dim")
    head.append(_GAP.join(_fitted(Text(c.head), c.width, right=c.right).plain for c in columns))
    drawn = [Row(_fitted(head, width))]
    for index, task in enumerate(tasks):
        cells = [column.cell(index) for column in columns]
        drawn.append(Row(_line(cells, width), task_key(task), task))
    return drawn


def task_key(task: Json) -> str:
    """What the cursor holds on to; a session that is not ours has no task id."""
    session = task["session"] or {}
    return f"task {task['id'] or session.get('session_id') or session.get('pid')}"


def _columns(situation: Situation, width: int, now: float) -> list[_Column]:
    """The columns that there is room for; what is dropped goes from the least important on."""
    tasks, several = situation.tasks, _several(situation)
    sessions = [task["session"] or {} for task in tasks]
    names = [task_name(task, several) for task in tasks]
    name = _Column("SESSION", _name_width(names, width), [Text(n, style="bold") for n in names])
    state = _Column("STATE", _STATE_WIDTH, [_state(task) for task in tasks])
    ages = [render.age(s["since"], now) if s.get("since") else "" for s in sessions]
    age = _Column("FOR", _AGE_WIDTH, [Text(text) for text in ages], right=True)
    whys = [why(task) for task in tasks]
    room = width - len(_NO_MARK) - name.width - state.width - age.width - 3 * len(_GAP)
    widest_why = max((one.cell_len for one in whys), default=0)
    extras, room = _extras(tasks, sessions, room, max(_WHY_MIN, min(widest_why, _WHY_GOOD)))
    branches = [render.line(task["branch"] or "") for task in tasks]
    widest_branch = max(map(len, branches), default=0)
    why_width = max(1, room)
    tail: list[_Column] = []
    if widest_branch and room - len(_GAP) - _BRANCH_MIN >= max(_WHY_GOOD, min(widest_why, 36)):
        why_width = max(_WHY_GOOD, min(widest_why, room - len(_GAP) - widest_branch))
        branch = [Text(one, style="dim") for one in branches]
        tail = [_Column("BRANCH", room - len(_GAP) - why_width, branch)]
    if room >= _WHY_MIN // 2:
        tail.insert(0, _Column("WAITS FOR", why_width, whys))
    return [name, state, age, *extras, *tail]


def _extras(
    tasks: Sequence[Json], sessions: Sequence[Json], room: int, why_width: int
) -> tuple[list[_Column], int]:
    """The narrow columns that have something to tell and fit, and the room that is left."""
    usages = [session.get("usage") or {} for session in sessions]
    mail = [_number(task["pending"], "bold yellow") for task in tasks]
    context = [_tokens(usage.get("context_tokens")) for usage in usages]
    cost = [_cost(usage.get("cost_usd")) for usage in usages]
    kept = []
    for column, left_for_why in (
        (_Column("MAIL", 4, mail, right=True), _WHY_MIN),
        (_Column("CTX", 5, context, right=True), why_width),
        (_Column("COST", 6, cost, right=True), why_width),
    ):
        needed = column.width + len(_GAP)
        if any(cell.plain for cell in column.cells) and room - needed >= left_for_why:
            kept.append(column)
            room -= needed
    return kept, room


def task_name(task: Json, several_workspaces: bool) -> str:
    """A task as a person names it; other sessions of the machine are marked."""
    name = render.line(str(task["name"] or ""))
    if several_workspaces and task.get("workspace"):
        name = f"{render.line(task['workspace'])}/{name}"
    return name if task["supervised"] else f"({name})"


def why(task: Json) -> Text:
    """What the session waits for, or why it does not go on."""
    session = task["session"] or {}
    if stands := render.in_queue(task):
        return Text(render.line(stands[1]), style="dim")
    if refused := refusal.words(task):
        return Text(refused, style="red")
    if session.get("waiting_for"):
        return Text(render.line(session["waiting_for"]), style="magenta")
    if session.get("state") in ("failed", "interrupted", "stopped") and session.get("reason"):
        return Text(render.line(session["reason"]), style="dim")
    if not task["supervised"]:
        return Text("not ours", style="dim")
    if not session and task["assignee"] == Assignee.HUMAN:
        return Text("" if TaskStatus(task["status"]).over else "you", style="magenta")
    if not session:
        verb = "start" if task["status"] == TaskStatus.NOTSTARTED else "restart"
        return Text(f"claudedo {verb} starts it", style="dim")
    return Text("")


def _state(task: Json) -> Text:
    if stands := render.in_queue(task):
        state = stands[0]
    elif task["session"]:
        state = str(task["session"]["state"])
    elif task["assignee"] == Assignee.HUMAN:
        state = str(task["status"]) if TaskStatus(task["status"]).over else "waiting"
    else:
        state = "not started"
    return Text(state, style=render.STATE_STYLES.get(state, "dim"))


def _number(count: int, style: str) -> Text:
    return Text(str(count or ""), style=style)


def _tokens(count: int | None) -> Text:
    if not count:
        return Text("")
    if count < 1000:
        return Text(str(count))
    return Text(f"{count / 1000:.0f}k" if count < 999_500 else f"{count / 1e6:.1f}M")


def _cost(dollars: float | None) -> Text:
    return Text(_dollars(dollars))


def _dollars(amount: float | None) -> str:
    return f"${amount:.2f}" if amount is not None and amount >= _LEAST_COST else ""


def _several(situation: Situation) -> bool:
    return len({task["workspace"] for task in situation.tasks if task["supervised"]}) > 1


def _name_width(names: Sequence[str], width: int) -> int:
    widest = max((Text(name).cell_len for name in names), default=0)
    return max(_NAME_MIN, min(widest, _NAME_MAX, width // 4))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _heading(text: str, width: int) -> Row:
    return Row(_fitted(Text(_NO_MARK + text, style="dim"), width))


def _plain(text: str, width: int, style: str = "") -> Row:
    return Row(_fitted(Text(_NO_MARK + text, style=style), width))


def _line(cells: Sequence[Text], width: int) -> Text:
    whole = Text(_NO_MARK, no_wrap=True, end="")
    whole.append_text(Text(_GAP).join(cells))
    return _fitted(whole, width)


def _fitted(text: Text, width: int, *, right: bool = False) -> Text:
    """`text` in exactly `width` cells."""
    cut = text.copy()
    cut.no_wrap, cut.end = True, ""
    if right and cut.cell_len < width:
        cut.pad_left(width - cut.cell_len)
    cut.truncate(max(0, width), overflow="ellipsis", pad=True)
    return cut
