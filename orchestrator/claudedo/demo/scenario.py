"""What the two sessions of the demonstration do: the scripts of their models, and what is said.

Knows nothing about processes or the terminal; `run` plays it. The scripts react to what reaches
them, as a model would, so they hold in whatever order and by whichever way the messages come.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from claudedo.demo.model import Answer, ModelRequest, Rules, ScriptedModel, Text, ToolUse

BACKEND, FRONTEND = "backend", "frontend"

BACKEND_PROMPT = "You own the orders API. Answer what frontend asks."
FRONTEND_PROMPT = "Show the orders. Ask backend what an order looks like."
QUESTION = "Which fields does an order have, and in which unit is the total?"
ANSWER = "id, placed_at and total; the total is in cents."
WORK = "Run the slow tests."
CORRECTION = "The total is in euros after all: tell me what that changes."

_PEER_MESSAGE = re.compile(r"message (m_[0-9A-Z]{26}) from the peer session")


@dataclass(frozen=True)
class SlowTool:
    """A tool call of backend that lasts until it is let go, a minute at most."""

    folder: Path

    @property
    def running(self) -> bool:
        """True once the command has begun, for ever after."""
        return self._began.exists()

    def let_go(self) -> None:
        """Let the command end."""
        self._go.touch()

    @property
    def command(self) -> str:
        """What backend runs in its shell."""
        began, go = (shlex.quote(str(path)) for path in (self._began, self._go))
        wait = f"until [ -e {go} ] || [ $i -ge 600 ]; do sleep 0.1; i=$((i+1)); done"
        return f"touch {began}; i=0; {wait}; echo the slow tool has ended"

    @property
    def _began(self) -> Path:
        return self.folder / "tool-began"

    @property
    def _go(self) -> Path:
        return self.folder / "tool-may-end"


def script(model: ScriptedModel, tool: SlowTool) -> None:
    """Give both sessions their scripts. They are told apart by their instructions."""
    slow = ToolUse("Bash", {"command": tool.command, "description": "Run the slow tests"})
    model.script(
        _works_on(BACKEND),
        Rules(
            [
                # First: the question may arrive together with the prompt.
                (QUESTION, _answer),
                (BACKEND_PROMPT, Text("Ready: I own the orders API.")),
                (CORRECTION, Text("Understood: the total is in euros; I adapt the API.")),
                (WORK, slow),
            ],
            _say_so,
        ),
    )
    asking = ToolUse("mcp__claudedo__send_to_peer", {"body": QUESTION})
    model.script(
        _works_on(FRONTEND),
        Rules([(FRONTEND_PROMPT, asking), (ANSWER, Text("Thanks, I build on that."))], _say_so),
    )


def _works_on(task: str) -> _Test:
    return _Test(f'task "{task}"')


@dataclass(frozen=True)
class _Test:
    """Fits the session whose instructions hold `words`."""

    words: str

    def __call__(self, request: ModelRequest) -> bool:
        return self.words in request.system_text


def _answer(request: ModelRequest) -> Answer:
    """Answer the question that is new in this request, by its id."""
    asked = _PEER_MESSAGE.findall(request.latest)[-1]
    return ToolUse("mcp__claudedo__send_to_peer", {"body": ANSWER, "reply_to": asked})


def _say_so(request: ModelRequest) -> Answer:
    if "[claudedo " in request.latest:
        return Text("I am a scripted model and have no answer to that, but I did read it.")
    return Text("Done.")
