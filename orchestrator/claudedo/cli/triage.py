"""`claudedo next`: one ask after the other, each decided with a key.

Shows, asks and sends; what an ask looks like is said in `ask_view`, what becomes of a decision by
the worker. Between two keys it looks whether the ask was decided elsewhere. What was typed before
an ask was shown decides nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo.cli import answers, ask, ask_view, edited_input, options, render
from claudedo.cli.keyboard import NOTHING, OTHER, RESIZED, RESUMED, Keyboard
from claudedo.errors import ClaudedoError, ConflictError, NotFoundError, UsageError
from claudedo.model import AskKind

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

app = typer.Typer()

LOOK_SECONDS = 1.0
"""How often it is looked whether an ask was decided elsewhere, or a new one is there."""

CALM_SECONDS = 0.7
"""For how long keys are ignored when an ask closed by itself and another takes its place."""

_LEAST_LINES = 6  # of a body that are shown on the smallest terminal
_TAIL_LINES = 3  # of a body that was cut
_NAME_WIDTH = 20  # of one of several questions, in the prompt
_NO_SUCH_COMMAND = 127  # as a shell says
_FRAME_LINES = 4  # a blank line, the head, the prompt and what a key brings


@app.command("next", rich_help_panel="Asks")
def next_ask(
    watch: Annotated[
        bool, typer.Option("--watch", "-f", help="Wait for the next ask when none is left.")
    ] = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Go through what waits for you, oldest first: a key allows, denies, answers or skips.

    Each ask is shown with its whole command or diff and the session's last words.

    Example: claudedo next
    """
    if not (sys.stdin.isatty() and render.out_is_terminal()):
        raise UsageError("next needs a terminal; `claudedo asks` works without one.")
    client = options.worker()
    with Keyboard() as keyboard:
        Triage(client, keyboard, workspace).run(watch=watch)


class _QuitError(Exception):
    """The person has seen enough."""


class Triage:
    """One walk through the asks."""

    def __init__(self, client: WorkerClient, keyboard: Keyboard, workspace: str | None) -> None:
        self._client = client
        self._keyboard = keyboard
        self._workspace = workspace
        self._passed: set[str] = set()
        self._seen = 0

    def run(self, *, watch: bool) -> None:
        """Show one ask after the other until none is left, or the person quits."""
        try:
            while (found := self._open()) or watch:
                if not found:
                    self._wait()
                    continue
                shown = self._whole(found[0])
                head = self._head(shown, len(found))
                if shown["closed_at"] is None:
                    _Card(self._client, self._keyboard, shown, head).run()
                self._passed.add(shown["id"])
        except (_QuitError, EOFError):
            return
        left = sum(one["id"] in self._passed for one in self._client.asks(self._workspace))
        render.show("Nothing waits for you" + (f" but the {left} you skipped." if left else "."))

    def _open(self) -> list[dict[str, Any]]:
        found = self._client.asks(self._workspace)
        return ask.named(self._client, [one for one in found if one["id"] not in self._passed])

    def _head(self, shown: dict[str, Any], left: int) -> list[render.Cell]:
        """The head of the first of the asks that are `left`."""
        self._seen += 1
        return ask_view.head(shown, f"{self._seen} of {self._seen + left - 1}")

    def _whole(self, listed: dict[str, Any]) -> dict[str, Any]:
        try:
            return ask.whole(self._client, listed)
        except NotFoundError:  # removed with its task since it was listed
            return {**listed, "closed_at": listed["opened_at"]}

    def _wait(self) -> None:
        render.show("Waiting for the next ask; q ends.", "dim")
        while not self._open():
            if self._keyboard.key(LOOK_SECONDS) in ("q", "\x04"):
                raise _QuitError


class _Card:
    """One ask on the screen, until it is decided, skipped or closed."""

    def __init__(
        self,
        client: WorkerClient,
        keyboard: Keyboard,
        shown: dict[str, Any],
        head: list[render.Cell],
    ) -> None:
        self._client = client
        self._keyboard = keyboard
        self._ask = shown
        self._head = head
        self._done = False
        self._cut = False
        self._questions = ask_view.questions(shown)
        self._given: dict[str, answers.Answer] = {}
        self._chosen: list[str] = []

    def run(self) -> None:
        self._draw()
        while not self._done:
            key = self._key()
            if self._done:
                return
            if key in (RESIZED, RESUMED):
                (self._draw if key == RESUMED else self._prompt)()
                continue
            try:
                self._act(key)
            except ConflictError as error:
                self._lost(str(error))
            except ClaudedoError as error:
                render.error(str(error))
            if not self._done:
                self._prompt()

    # What is shown

    def _draw(self) -> None:
        self._keyboard.forget()
        shown, console = self._ask, render.console()
        above = ask_view.folded([*ask_view.said(shown), *ask_view.heading(shown)], console.width)
        below = ask_view.folded(self._rule(), console.width)
        lines = ask_view.folded(ask_view.body(shown), console.width)
        room = max(_LEAST_LINES, console.height - len(above) - len(below) - _FRAME_LINES)
        self._cut = len(lines) > room
        if self._cut:
            more = f"  ⋮ {len(lines) - room + 1} more lines: v shows all"
            middle = [render.Cell(more, "bold yellow")]
            lines = [*lines[: room - 1 - _TAIL_LINES], *middle, *lines[-_TAIL_LINES:]]
        console.print()
        console.print(ask_view.row(self._head))
        console.print(ask_view.drawn([*above, *lines, *below]))
        self._prompt()

    def _rule(self) -> list[render.Cell]:
        rule = None if self._questions else ask_view.rule(self._ask)
        return [render.Cell(f"A, for the rest of this session: {rule}", "dim")] if rule else []

    def _prompt(self) -> None:
        question, keys = self._question(), self._keys()
        numbers = [self._choosing(question)] if question else []
        words = "  ".join([*numbers, *(word for _, word, _ in keys.values())])
        if len(words) + len(" > ") >= os.get_terminal_size(sys.stdout.fileno()).columns:
            words = " ".join([*numbers, f"[{','.join(keys)}]"])
        sys.stdout.write(f"\r\x1b[K{words} > ")
        sys.stdout.flush()

    def _choosing(self, question: ask_view.Question) -> str:
        several = ""
        if len(self._questions) > 1:
            named = render.line(question.header or question.text)[:_NAME_WIDTH]
            several = f"{len(self._given) + 1}/{len(self._questions)} {named} "
        count = len(question.choices)
        numbers = f"[1-{count}]" if count > 1 else "[1]" * count
        taken = [str(question.labels.index(label) + 1) for label in self._chosen]
        enter = f" then Enter: {','.join(taken)}" if question.several else ""
        return f"{several}{numbers}{enter}".strip(" :")

    def _question(self) -> ask_view.Question | None:
        """The first question that is not answered yet."""
        return next((one for one in self._questions if one.text not in self._given), None)

    # What is typed

    def _key(self) -> str:
        """The next key; without one, the ask was closed elsewhere."""
        while (key := self._keyboard.key(LOOK_SECONDS)) == NOTHING:
            if what := self._elsewhere():
                self._closed(what)
                return NOTHING
        return key

    def _elsewhere(self) -> str | None:
        """What became of the ask elsewhere; None while it is open."""
        try:
            now = self._client.ask(self._ask["id"])
        except NotFoundError:
            return "It is gone, with its task."
        return f"It {ask_view.outcome(now)}." if now["closed_at"] else None

    def _lost(self, sentence: str) -> None:
        """The decision came to nothing; the ask may still be open."""
        if self._elsewhere():
            self._closed(sentence)
        else:
            render.error(sentence)

    def _closed(self, sentence: str) -> None:
        render.show(f"\n{sentence}", "yellow")
        self._done = True
        time.sleep(CALM_SECONDS)

    def _keys(self) -> dict[str, tuple[str, str, Callable[[], None]]]:
        """Every key that does something now: its help, its word in the prompt, what it does."""
        kind, rule = self._ask["kind"], ask_view.rule(self._ask)
        keys: dict[str, tuple[str, str, Callable[[], None]]] = {}
        if not self._questions:
            keys["a"] = (_ALLOWS[kind], "[a]llow", self._allow)
            if rule:
                keys["A"] = (f"allow for the rest of the session: {rule}", "[A]lways", self._always)
        if kind == AskKind.PERMISSION:
            keys["e"] = ("change it in your editor; then y allows it", "[e]dit", self._edit)
        else:
            keys["t"] = (_TEXTS[kind], "[t]ext", self._text)
        if kind == AskKind.TASK:
            keys["k"] = ("say something, and keep it open", "[k]eep open", self._reply)
        keys["d"] = ("refuse it, with a reason if you like", "[d]eny", self._deny)
        keys["s"] = ("leave it for later", "[s]kip", self._skip)
        if ask_view.session_of(self._ask):
            keys["o"] = ("open the session's terminal; Ctrl-] comes back", "[o]pen", self._attach)
        if self._cut:
            keys["v"] = ("show all of it", "[v]iew", self._view)
        keys["q"] = ("leave what is left for later", "[q]uit", self._quit)
        keys["?"] = ("this", "[?]", self._help)
        return keys

    def _act(self, key: str) -> None:
        question = self._question()
        if question and (key.isdecimal() or key in "\r\n"):
            self._choose(question, key)
            return
        known = self._keys().get("q" if key == "\x04" else key)
        if known is None:
            words = (
                "Arrows and pasted text decide nothing." if key == OTHER else "? explains the keys."
            )
            render.show(f"\n{words}", "dim")
            return
        render.show("")
        known[2]()

    # What the keys do

    def _decide(self, decision: Mapping[str, Any]) -> None:
        decided = self._client.decide(self._ask["id"], dict(decision))
        self._done = decided["outcome"] is not None
        render.show(ask.sentence(self._ask, decided, decision.get("input")), "green")

    def _allow(self, **more: Any) -> None:
        decision = {"decision": "allow", **more}
        others = ask.waiting_alike(self._client, self._ask)
        self._decide(decision)
        if others and self._yes(ask.question_of_same(others)):
            ask.allow_alike(self._client, others, decision)

    def _always(self) -> None:
        ask.check_allow(self._ask, always=True)
        self._allow(always=True)

    def _edit(self) -> None:
        with self._keyboard.released():
            try:
                given = edited_input.edit(self._ask)
            except edited_input.UnchangedError:
                render.show("Nothing was changed; a allows it as it is.")
                return
        ask.show_difference(self._ask, given)
        if self._yes("Allow it changed like this?"):
            self._decide({"decision": "allow", "input": given})

    def _deny(self) -> None:
        reason = self._line("Why not? The session is told; may be empty. Ctrl-C: not yet.")
        if reason is not None:
            self._decide({"decision": "deny", "reason": reason.strip() or None})

    def _text(self) -> None:
        question = self._question()
        words = self._line(
            render.line(question.text) if question else "Your words. Ctrl-C: not yet."
        )
        if words is None or not words.strip():
            return
        if question:
            self._take(question, answers.answer(question, words))
        else:
            self._decide({"decision": "answer", "text": words})

    def _reply(self) -> None:
        words = self._line("Your words; the task stays open. Ctrl-C: not yet.")
        if words and words.strip():
            self._decide({"decision": "answer", "text": words, "keep_open": True})

    def _choose(self, question: ask_view.Question, key: str) -> None:
        """Take the choice with the number `key`, or mark it where several can be taken."""
        if key in "\r\n":
            if question.several and self._chosen:
                self._take(question, list(self._chosen))
            return
        if not 1 <= int(key) <= len(question.choices):
            return
        label = question.labels[int(key) - 1]
        if not question.several:
            self._take(question, label)
        elif label in self._chosen:
            self._chosen.remove(label)
        else:
            self._chosen.append(label)

    def _take(self, question: ask_view.Question, answer: answers.Answer) -> None:
        said = answer if isinstance(answer, str) else ", ".join(answer)
        render.show(f"\n  {render.line(said)}", "bold")
        self._given[question.text] = answer
        self._chosen = []
        if self._question() is None:
            self._decide({"decision": "answer", "answers": self._given})

    def _skip(self) -> None:
        self._done = True

    def _quit(self) -> None:
        raise _QuitError

    def _attach(self) -> None:
        from claudedo.cli.terminal import show_terminal

        with self._keyboard.released():
            try:
                show_terminal(self._client, str(ask_view.session_of(self._ask)))
            except typer.Exit:
                render.note("The session has ended.")
        if what := self._elsewhere():
            self._closed(what)
        else:
            self._draw()

    def _view(self) -> None:
        lines = [*ask_view.heading(self._ask), *ask_view.body(self._ask)]
        text = "\n".join(ask_view.plain(ask_view.folded(lines, render.console().width)))
        with self._keyboard.released():
            _page(text)

    def _help(self) -> None:
        for key, (words, _, _) in self._keys().items():
            render.show(f"  {key}  {words}")

    def _line(self, question: str) -> str | None:
        """A line that the person types; None if they changed their mind."""
        with self._keyboard.released():
            try:
                return render.prompt(question)
            except KeyboardInterrupt:
                render.show("")
                return None

    def _yes(self, question: str) -> bool:
        sys.stdout.write(f"{render.line(question)} [y/N] ")
        sys.stdout.flush()
        self._keyboard.forget()
        while (key := self._keyboard.key(LOOK_SECONDS)) in (NOTHING, RESIZED, RESUMED):
            continue
        render.show(key if key in "yn" else "")
        return key in "yY"


_ALLOWS = {
    AskKind.PERMISSION: "allow it, this once",
    AskKind.PLAN: "let the plan be carried out",
    AskKind.TASK: "it is done",
    AskKind.QUESTION: "allow the question",
}
_TEXTS = {
    AskKind.QUESTION: "answer in your own words",
    AskKind.PLAN: "say what the plan lacks",
    AskKind.TASK: "answer it, which completes it",
}


def _page(text: str) -> None:
    """Show `text` with the person's pager, `less` where none is set, as it is where there is none.

    Ctrl-C is for the pager alone meanwhile.
    """
    pager = os.environ.get("PAGER", "").strip() or "less"
    with subprocess.Popen(pager, shell=True, stdin=subprocess.PIPE) as process:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.communicate(text.encode(errors="replace"))
        finally:
            signal.signal(signal.SIGINT, previous)
    if process.returncode == _NO_SUCH_COMMAND:
        render.show(text)
