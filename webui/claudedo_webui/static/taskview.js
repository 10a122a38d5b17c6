// The selected task: what it is, what was said, and the box to say more.

import { useState } from "preact/hooks";
import { Composer } from "./composer.js";
import { html } from "./html.js";
import { SessionState } from "./session.js";
import { hrefOf, tasks } from "./store.js";
import { Timeline } from "./timeline.js";

export function TaskView({ task }) {
  return html`<main class="view" aria-label=${`Task ${task.name}`}>
    <${Heading} task=${task} />
    <${Timeline} task=${task} />
    <${Composer} task=${task} />
  </main>`;
}

function Heading({ task }) {
  const reason = task.session?.reason;
  return html`<div class="heading">
    <div class="title">
      <a class="back" href="#" aria-label="All tasks">‹</a>
      <h1><bdi>${task.name}</bdi></h1>
      <${SessionState} task=${task} />
    </div>
    ${reason && html`<p class="reason"><bdi>${reason}</bdi></p>`}
    <dl class="facts">
      <${Fact} name="status">${task.status}<//>
      ${task.branch && html`<${Fact} name="branch"><bdi class="mono">${task.branch}</bdi><//>`}
      ${task.worktree && html`<${Fact} name="worktree">
        <${Copyable} text=${task.worktree} what="worktree path" /><//>`}
      ${task.peers?.length > 0 && html`<${Fact} name="peers"><${Peers} task=${task} /><//>`}
      ${task.session?.version && html`<${Fact} name="claude">${task.session.version}<//>`}
      ${task.session?.transports?.length > 0 && html`<${Fact} name="paths">${
        task.session.transports.join(", ")}<//>`}
    </dl>
  </div>`;
}

function Fact({ name, children }) {
  return html`<div class="fact"><dt>${name}</dt><dd>${children}</dd></div>`;
}

/** A path that a click selects whole, and a button that copies it. */
function Copyable({ text, what }) {
  const [result, setResult] = useState(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setResult("copied");
    } catch {
      setResult("select it"); // no clipboard for this page: the path can be selected by a click
    }
    setTimeout(() => setResult(null), 1500);
  };
  return html`<bdi class="mono path" title=${text}>${text}</bdi>
    <button type="button" class="quiet copy" aria-label=${`Copy the ${what}`} onClick=${copy}
      ><span role="status">${result ?? "copy"}</span></button>`;
}

function Peers({ task }) {
  return task.peers.map((name, at) => {
    const peer = peerNamed(name, task.workspace);
    const shown = html`<bdi>${name}</bdi>`;
    const linked = peer ? html`<a href=${hrefOf(peer.id)}>${shown}</a>` : shown;
    return html`<span>${linked}${at < task.peers.length - 1 && ","}</span>`;
  });
}

/** A peer is named as the command line names it: by name in this workspace, or workspace/name. */
function peerNamed(name, workspace) {
  const all = [...tasks.value.values()].filter((task) => task.id);
  return all.find((task) => task.name === name && task.workspace === workspace)
    ?? all.find((task) => `${task.workspace}/${task.name}` === name)
    ?? all.find((task) => task.name === name);
}
