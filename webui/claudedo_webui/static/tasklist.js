// The tasks, grouped by workspace.

import { html } from "./html.js";
import { SessionState } from "./session.js";
import { hrefOf, keyOf, selectedId, tasks } from "./store.js";

const OTHERS = "Not started by claudedo";

/** [[heading, tasks]], workspaces by name, the machine's other sessions last. */
function groups() {
  const byHeading = new Map();
  for (const task of tasks.value.values()) {
    const heading = task.supervised === false ? OTHERS : task.workspace;
    byHeading.set(heading, [...(byHeading.get(heading) ?? []), task]);
  }
  const last = (heading) => (heading === OTHERS ? 1 : 0);
  return [...byHeading]
    .map(([heading, list]) => [heading, list.sort((a, b) => nameOf(a).localeCompare(nameOf(b)))])
    .sort(([a], [b]) => last(a) - last(b) || a.localeCompare(b));
}

/** A session that was not started here may have no name: its folder tells it apart. */
const nameOf = (task) => task.name ?? task.worktree ?? keyOf(task);

/** Up and down walk through the tasks, whatever the workspace. */
function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const links = [...event.currentTarget.querySelectorAll("a.task")];
  const next = links[links.indexOf(document.activeElement) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

export function TaskList() {
  return html`<nav class="tasks" aria-label="Tasks" onKeyDown=${walk}>
    ${groups().map(([heading, list]) => html`<section key=${heading}>
      <h2><bdi>${heading}</bdi></h2>
      <ul>${list.map((task) => html`<li key=${keyOf(task)}><${Row} task=${task} /></li>`)}</ul>
    </section>`)}
  </nav>`;
}

function Row({ task }) {
  const content = html`<span class="name"><bdi>${nameOf(task)}</bdi></span>
    <${Badge} pending=${task.pending} />
    <${SessionState} task=${task} />`;
  if (task.supervised === false) return html`<div class="task other">${content}</div>`;
  return html`<a class="task" href=${hrefOf(task.id)}
    aria-current=${task.id === selectedId.value ? "page" : null}>${content}</a>`;
}

function Badge({ pending }) {
  if (!pending) return null;
  const words = `${pending} ${pending === 1 ? "message" : "messages"} not delivered yet`;
  return html`<span class="badge" title=${words}
    >${pending}<span class="unseen"> ${words}</span></span>`;
}
