"""A person's decision about an ask, and how it is said to the CLI.

Pure: checks that the decision fits the ask, and renders the answer of the `PermissionRequest` hook
(docs/claude-cli.md 13.2, 13.3, 13.9, 13.10). Nothing here widens what the CLI suggested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from claudedo.errors import RefusedError, UsageError
from claudedo.model import Ask, AskKind, AskOutcome
from claudedo_worker import ask_text

ALLOW, DENY, ANSWER = "allow", "deny", "answer"

Output = dict[str, Any]

_NEEDED = {
    "Bash": ("command",),
    "PowerShell": ("command",),
    "Edit": ("file_path", "old_string", "new_string"),
    "MultiEdit": ("file_path", "edits"),
    "Write": ("file_path", "content"),
    "NotebookEdit": ("notebook_path", "new_source"),
    "WebFetch": ("url", "prompt"),
    "WebSearch": ("query",),
}
"""Without what a tool does not run, and the model alone is told."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a person said; the fields are those of `POST /api/asks/{ask}/decision`."""

    decision: str
    always: bool = False
    reason: str | None = None
    text: str | None = None
    answers: Mapping[str, str | list[str]] | None = None
    input: Mapping[str, Any] | None = None
    keep_open: bool = False  # an answer that does not complete a person's task
    attachments: list[str] | None = None  # ids of files that go with an answer to a person's task

    @property
    def is_bare(self) -> bool:
        """True if it is just yes or no: then it is all one who else said the same."""
        return not (self.always or self.reason or self.text or self.answers or self.input)


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """A decision that fits its ask: what is kept of it, and what the hook answers."""

    outcome: AskOutcome
    output: Output
    kept: Mapping[str, Any]

    @property
    def behavior(self) -> str:
        """The word of the hook: allow or deny."""
        return str(self.output["hookSpecificOutput"]["decision"]["behavior"])

    @property
    def message(self) -> str | None:
        """What the model is told with a refusal."""
        message = self.output["hookSpecificOutput"]["decision"].get("message")
        return None if message is None else str(message)


def rule(ask: Ask, decision: Decision) -> Ruling:
    """What `decision` means for `ask`. Raises `UsageError`, and `RefusedError` with what to do."""
    _refuse_extras(decision, "what a session asks", ("keep_open", "attachments"))
    match decision.decision:
        case "allow":
            return _allow(ask, decision)
        case "deny":
            _refuse_extras(decision, "deny", ("always", "text", "answers", "input"))
            return _deny(decision)
        case "answer":
            _refuse_extras(decision, "answer", ("always", "reason", "input"))
            return _answer(ask, decision)
    raise UsageError(f"{decision.decision!r} is no decision; there are allow, deny and answer.")


def of_task(decision: Decision) -> tuple[AskOutcome, str | None]:
    """What a decision means for a task that was made for the person, and the words with it.

    Raises `UsageError` for what does not go with it.
    """
    match decision.decision:
        case "allow":
            _refuse_extras(
                decision,
                "allow of a task",
                ("always", "reason", "text", "answers", "input", "keep_open", "attachments"),
            )
            return AskOutcome.ALLOWED, None
        case "deny":
            _refuse_extras(
                decision,
                "deny of a task",
                ("always", "text", "answers", "input", "keep_open", "attachments"),
            )
            return AskOutcome.DENIED, decision.reason
        case "answer":
            _refuse_extras(decision, "answer", ("always", "reason", "answers", "input"))
            return AskOutcome.ANSWERED, decision.text or ""
    raise UsageError(f"{decision.decision!r} is no decision; there are allow, deny and answer.")


def of_kept(ask: Ask) -> Ruling:
    """The same ruling once more, for a decision that was stored with its ask."""
    kept = {key: value for key, value in (ask.decision or {}).items() if key != "own_words"}
    return rule(ask, Decision(**kept))


def _allow(ask: Ask, decision: Decision) -> Ruling:
    _refuse_extras(decision, "allow", ("reason", "text", "answers"))
    if ask.kind is AskKind.QUESTION:
        raise RefusedError("This is a question: `claudedo answer` gives it an answer.")
    if decision.input is not None and ask.kind is AskKind.PLAN:
        raise RefusedError("A plan cannot be edited here; `claudedo answer` says what it lacks.")
    if decision.input is not None and decision.always:
        raise RefusedError(
            "A rule would be for what was asked, not for what you made of it: leave out --always."
        )
    said: dict[str, Any] = {"behavior": "allow"}
    if decision.input is not None:
        _check_input(ask, decision.input)
        said["updatedInput"] = dict(decision.input)
    elif ask.kind is AskKind.PLAN:
        said["updatedInput"] = dict(ask.input)  # newer versions stay at the dialog without (13.10)
    if decision.always:
        said["updatedPermissions"] = _permissions(ask)
    return Ruling(outcome=AskOutcome.ALLOWED, output=_output(said), kept=_kept(decision))


def _check_input(ask: Ask, given: Mapping[str, Any]) -> None:
    """Raises `UsageError` for an input that the tool would reject, of which nobody would be told.

    Only what was asked says how the values of a tool have to be.
    """
    for key in _NEEDED.get(ask.tool or "", ()):
        asked, value = ask.input.get(key), given.get(key)
        if asked is None:
            continue
        if not isinstance(value, type(asked)) or (key == "command" and not value.strip()):
            raise UsageError(
                f"The input of {ask.tool} needs `{key}`, as it was asked; nothing was decided."
            )


def _permissions(ask: Ask) -> list[dict[str, Any]]:
    """What the CLI suggested, for this session only (13.3)."""
    if ask.kind is AskKind.PLAN:
        return [{"type": "setMode", "mode": "acceptEdits", "destination": "session"}]
    updates = [
        {**update, "destination": "session"} for update in ask.suggestions if _may_stay(update)
    ]
    if not updates:
        raise RefusedError(
            "Claude suggested no rule for this call, so it can only be allowed this time: leave "
            "out --always."
        )
    return updates


def _may_stay(update: Mapping[str, Any]) -> bool:
    """Only what allows more of the same; never a mode in which nothing is asked any more."""
    match update.get("type"):
        case "addRules":
            return update.get("behavior") == "allow"
        case "setMode":
            return update.get("mode") == "acceptEdits"
    return update.get("type") == "addDirectories"


def _deny(decision: Decision) -> Ruling:
    said = {"behavior": "deny", "message": decision.reason or "The user said no to this."}
    return Ruling(outcome=AskOutcome.DENIED, output=_output(said), kept=_kept(decision))


def _answer(ask: Ask, decision: Decision) -> Ruling:
    if ask.kind is AskKind.PLAN:
        if not decision.text or decision.answers:
            raise UsageError("Say what the plan lacks: `text`.")
        return _deny(Decision(decision=DENY, reason=decision.text))
    if ask.kind is not AskKind.QUESTION:
        raise RefusedError(
            "This asks for permission: `claudedo allow`, or `claudedo deny -m TEXT` in your words."
        )
    questions = ask_text.questions(ask.input)
    given = _given(questions, decision)
    answers: dict[str, str] = {}
    own: list[str] = []
    for question in questions:
        asked = question["question"]
        if asked not in given:
            raise UsageError(f"There is no answer to: {ask_text.visible(asked)}")
        answers[asked], is_own = _one(question, given[asked])
        own += [asked] if is_own else []
    said = {"behavior": "allow", "updatedInput": {**ask.input, "answers": answers}}
    kept = {"decision": ANSWER, "answers": answers, "own_words": own}
    return Ruling(outcome=AskOutcome.ANSWERED, output=_output(said), kept=kept)


def _given(questions: list[dict[str, Any]], decision: Decision) -> Mapping[str, str | list[str]]:
    if (decision.text is None) == (decision.answers is None):
        raise UsageError("Give either `text` or `answers`.")
    if decision.answers is None:
        if len(questions) != 1:
            raise UsageError(
                f"It asks {len(questions)} questions; answer each by its text, in `answers`."
            )
        return {questions[0]["question"]: str(decision.text)}
    asked = {question["question"] for question in questions}
    if unknown := decision.answers.keys() - asked:
        raise UsageError(f"It does not ask {ask_text.visible(min(unknown))!r}.")
    return decision.answers


def _one(question: Mapping[str, Any], given: str | list[str]) -> tuple[str, bool]:
    """One answer as the CLI takes it, and whether it is in the person's own words."""
    chosen = [given] if isinstance(given, str) else given
    known = {str(label).casefold(): str(label) for label in ask_text.labels(question)}
    chosen = [known.get(words.strip().casefold(), words.strip()) for words in chosen]
    if not chosen or not all(chosen):
        raise UsageError("An answer is empty.")
    if len(chosen) > 1 and not question.get("multiSelect"):
        raise UsageError(f"Only one choice is possible: {ask_text.visible(question['question'])}")
    return ", ".join(chosen), not set(chosen) <= set(known.values())


def _refuse_extras(decision: Decision, word: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(decision, name) not in (None, False):
            raise UsageError(f"`{name}` does not go with {word}.")


def _output(said: Mapping[str, Any]) -> Output:
    return {"hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": dict(said)}}


def _kept(decision: Decision) -> dict[str, Any]:
    return {key: value for key, value in asdict(decision).items() if value not in (None, False)}
