// The tasks, grouped by workspace.

import { html } from "./html.js";
import { plural } from "./counts.js";
import { SessionState } from "./session.js";
import {
  hrefOf, isShown, keyOf, openAsks, others, selectedId, showWorkspace, shownWorkspace,
  statusWord, tasks, workspaces,
} from "./store.js";

const OTHERS = "Not started by claudedo";

/** [[heading, tasks]], workspaces by name, the machine's other sessions last. */
function groups() {
  const byHeading = new Map();
  for (const task of [...tasks.value.values(), ...others.value].filter(isShown)) {
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
  return html`<nav class="tasks" tabindex="-1" aria-label="Tasks" onKeyDown=${walk}>
    <${Tools} />
    <${Waiting} />
    ${groups().map(([heading, list]) => html`<section key=${heading}>
      <h2><bdi>${heading}</bdi></h2>
      <ul>${list.map((task) => html`<li key=${keyOf(task)}><${Row} task=${task} /></li>`)}</ul>
    </section>`)}
  </nav>`;
}

function Tools() {
  const names = [...new Set([...workspaces.value, ...others.value.map(({ workspace: name }) =>
    ({ name }))].map(({ name }) => name))].sort();
  const place = selectedId.value;
  return html`<div class="tools">
    <label><span class="unseen">Workspace</span><select value=${shownWorkspace.value}
      onChange=${(event) => showWorkspace(event.currentTarget.value)}>
      <option value="">all workspaces</option>
      ${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select></label>
    <a href="#new" aria-current=${place === "new" ? "page" : null}>new task</a>
    <a href="#workspaces" aria-current=${place === "workspaces" ? "page" : null}
      title="Workspaces and tokens">manage</a>
  </div>`;
}

/** The way to everything that waits for the person. */
function Waiting() {
  const open = openAsks.value.filter(isShown);
  if (open.length === 0) return null;
  const current = selectedId.value === "asks" ? "page" : null;
  return html`<a class="task asks-link" href="#asks" aria-current=${current}>
    <span class="name">${plural(open.length, "ask")} for you</span>
    <span class="state"><bdi class="waiting-for">${open.map((ask) => ask.title).join(" · ")}</bdi>
    </span></a>`;
}

function Row({ task }) {
  const asking = openAsks.value.filter((ask) => ask.task === task.id).length;
  const content = html`<span class="name"><bdi>${nameOf(task)}</bdi></span>
    <span class="badges"><${AskBadge} count=${asking} /><${Badge} pending=${task.pending} /></span>
    ${task.assignee === "human" ? html`<${OwnState} task=${task} />`
      : html`<${SessionState} task=${task} />`}`;
  if (task.supervised === false) {
    const words = "Not started by claudedo; `claudedo adopt` takes it over";
    return html`<div class="task other" title=${words}>${content}</div>`;
  }
  return html`<a class="task" href=${hrefOf(task.id)}
    aria-current=${task.id === selectedId.value ? "page" : null}>${content}</a>`;
}

/** A person's task has no session: its status is what there is. */
function OwnState({ task }) {
  return html`<span class="state" data-state="none"><span class="word">for you, ${
    statusWord(task.status)}</span></span>`;
}

function AskBadge({ count }) {
  if (!count) return null;
  const words = plural(count, "open ask");
  return html`<span class="badge asking" title=${words}>?<span class="unseen"> ${
    words}</span></span>`;
}

function Badge({ pending }) {
  if (!pending) return null;
  const words = `${pending} ${pending === 1 ? "message" : "messages"} not delivered yet`;
  return html`<span class="badge" title=${words}
    >${pending}<span class="unseen"> ${words}</span></span>`;
}
