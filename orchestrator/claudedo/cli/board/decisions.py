"""What a person does with an ask: allow, always allow, deny, edit, answer.

Asks back where something would be allowed that the person cannot have seen. The worker knows who
was first; this only tells.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from claudedo.cli import answers, ask_view, edited_input, render
from claudedo.cli.ask_view import Question
from claudedo.cli.board.desk import Desk
from claudedo.cli.board.dialogs import Choose, Write
from claudedo.cli.board.picture import Json
from claudedo.cli.board.reading import EditReading
from claudedo.cli.render import Cell
from claudedo.errors import ClaudedoError, UsageError


class Decisions:
    """The decisions of the person at one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._told: set[str] = set()  # asks whose end was said already
        self._deciding: set[str] = set()  # asks whose decision is on its way

    def decide(self, verb: str, ask: Json) -> None:
        """Do what a key stands for; says so where it does not fit the ask's kind."""
        fitting = {
            "allow": ask["kind"] != "question",
            "allow_always": ask["kind"] in ("permission", "plan"),
            "edit": ask["kind"] == "permission" and bool(ask.get("tool")),
            "answer": ask["kind"] != "permission",
            "deny": True,
        }
        if fitting[verb]:
            getattr(self, verb)(ask)
        elif verb == "allow":
            self.answer(ask)
        else:
            self._desk.say(f"That does not fit: this is a {ask['kind']}.", wrong=True)

    def others(self, ask: Json) -> list[str]:
        """The names of the other sessions in which the very same waits."""
        return [render.line(str(one["task_name"])) for one in self._same(ask)]

    def allow(self, ask: Json) -> None:
        """Allow it once; offers to allow the very same in other sessions with it."""
        same = self._same(ask)
        if not same:
            self._send([ask], {"decision": "allow"})
            return
        names = ", ".join([self._name(ask), *self.others(ask)])
        lines = [Text(f"The very same waits in {names}:"), Text(render.line(ask["title"]), "bold")]

        def chosen(key: str | None) -> None:
            if key:
                self._send([ask, *same] if key == "y" else [ask], {"decision": "allow"})

        keys = {"y": f"allow all {1 + len(same)}", "o": f"only {self._name(ask)}"}
        self._desk.push_screen(Choose(lines, keys), chosen)

    def allow_always(self, ask: Json) -> None:
        """Allow it, and what the CLI suggested, for the rest of the session; shows that first."""
        held = ask_view.rule(ask)
        if held is None:
            self._desk.say("There is no rule to keep for this; y allows it once.", wrong=True)
            return
        lines = [
            Text.assemble("Allow this, and from now on in this session: ", (held, "bold")),
        ]

        def chosen(key: str | None) -> None:
            if key:
                self._send([ask], {"decision": "allow", "always": True})

        self._desk.push_screen(Choose(lines, {"y": "allow and keep the rule"}), chosen)

    def deny(self, ask: Json) -> None:
        """Deny it, with a reason for the session if the person gives one."""
        verb, question = "deny", "What is the session to do instead?"
        if ask["kind"] == "task":
            verb, question = "reject", "What is who asked told?"
        lines = [
            Text(f"{verb.capitalize()}: {render.line(ask['title'])}", "bold"),
            Text(f"{question} May stay empty.", "dim"),
        ]

        def written(reason: str | None) -> None:
            if reason is not None:
                given = {"reason": reason.strip()} if reason.strip() else {}
                self._send([ask], {"decision": "deny", **given})

        self._desk.push_screen(Write(lines, done=verb, empty=True), written)

    def edit(self, ask: Json) -> None:
        """Let the person change the tool's input; shows the difference before it is allowed."""
        with self._desk.terminal_given_away():
            changed = edited_input.edit(ask)
            self._desk.call_later(self._confirm_edit, ask, changed)

    def _confirm_edit(self, ask: Json, changed: dict[str, Any]) -> None:
        def allow() -> None:
            self._send([ask], {"decision": "allow", "input": changed})

        lines = edited_input.difference(ask["input"], changed, ask_view.GUTTER)
        nothing = [Cell("It means the same as before.", "dim")]
        self._desk.push_screen(EditReading(lines or nothing, allow))

    def answer(self, ask: Json, begun: str = "") -> None:
        """Answer its questions, one after the other, or say something to a plan or a task."""
        if asked := ask_view.questions(ask):
            self._ask(ask, asked, {}, begun)
            return

        def written(text: str | None) -> None:
            if text is not None:
                self._send([ask], {"decision": "answer", "text": text})

        lines = [Text(render.line(ask["title"]), "bold")]
        if ask["kind"] == "task":
            lines.append(Text("This completes it; s in the list says something only.", "dim"))
        self._desk.push_screen(Write(lines, begun, done="answer"), written)

    def _ask(
        self, ask: Json, left: list[Question], given: dict[str, answers.Answer], begun: str = ""
    ) -> None:
        """Ask for the answer to the first of the questions that are left, then for the others."""
        if not left:
            self._send([ask], {"decision": "answer", "answers": given})
            return
        question = left[0]
        hint = "A number or own words" + (", several with commas" if question.several else "")
        number, count = 1 + len(given), len(given) + len(left)
        lines = [Text(render.line(question.text), "bold")]
        if count > 1:
            lines[0].append(f"  {number} of {count}", "not bold")
        lines += [_text(cell) for cell in ask_view.choices(question)]
        lines.append(Text(f"{hint}:", "dim"))

        def written(text: str | None) -> None:
            if text is None:
                return
            try:
                answered = answers.answer(question, text)
            except UsageError as error:
                self._desk.say(str(error), wrong=True)
                self._ask(ask, left, given, text)
            else:
                self._ask(ask, left[1:], {**given, question.text: answered})

        self._desk.push_screen(Write(lines, begun, done="answer"), written)

    def tell_outcome(self, ask: Json) -> None:
        """Say how an ask ended that is gone from the list, unless it was ended from here."""
        if ask["id"] not in self._told:
            self._told.add(ask["id"])
            self._desk.work(
                lambda: self._desk.client.ask(ask["id"]),
                lambda closed: self._desk.say(f"{_what(ask)} {ask_view.outcome(closed)}"),
            )

    def _send(self, asks: list[Json], decision: Json) -> None:
        left = [one for one in asks if one["id"] not in self._deciding]
        self._deciding.update(one["id"] for one in left)

        def told(sentences: list[str]) -> None:
            self._told.update(one["id"] for one in left)
            self._desk.say("; ".join(sentences))
            self._desk.look()

        if len(left) == 1:
            self._desk.work(lambda: [self._decided(left[0], decision)], told)
        elif left:
            self._desk.work(lambda: [self._tried(one, decision) for one in left], told)

    def _decided(self, ask: Json, decision: Json) -> str:
        try:
            closed = self._desk.client.decide(ask["id"], decision)
        finally:
            self._deciding.discard(ask["id"])
        return f"{_what(ask)} {ask_view.outcome(closed)}"

    def _tried(self, ask: Json, decision: Json) -> str:
        """The same for one of several: what goes wrong with one must not keep the others."""
        try:
            return self._decided(ask, decision)
        except ClaudedoError as error:
            return f"{self._name(ask)}: {error}"

    def _same(self, ask: Json) -> list[Json]:
        situation = self._desk.situation
        found = [situation.ask(other) for other in ask.get("same") or ()] if situation else []
        return [one for one in found if one is not None]

    def _name(self, ask: Json) -> str:
        return render.line(str(ask["task_name"]))


def _what(ask: Json) -> str:
    return f"{ask['task_name']}" + ("" if ask["kind"] == "task" else f"'s {ask['kind']}")


def _text(cell: Cell) -> Text:
    return Text(cell.text, style=cell.style)
