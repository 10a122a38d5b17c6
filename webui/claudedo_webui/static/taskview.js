// The selected task: what it is, what was said, and the box to say more.

import { useRef, useState } from "preact/hooks";
import { AsksOf } from "./asks.js";
import { Composer } from "./composer.js";
import { tokensOf } from "./counts.js";
import { html } from "./html.js";
import { firstKept } from "./kept.js";
import { SessionState, failureOf, standingOf } from "./session.js";
import { StatusPanel } from "./status.js";
import { hrefOf, nameOfParty, statusWord, tasks } from "./store.js";
import { Timeline } from "./timeline.js";
import { attach, useDrop } from "./uploads.js";

export function TaskView({ task }) {
  const drop = useDrop((files) => attach(task.id, files));
  return html`<main class="view" tabindex="-1" aria-label=${`Task ${task.name}`} ...${drop}>
    <${Heading} task=${task} />
    <${AsksOf} task=${task} />
    <${Timeline} task=${task} />
    <${Composer} task=${task} />
  </main>`;
}

function Heading({ task }) {
  const standing = standingOf(task);
  const reason = standing ? (standing.exit ? standing.reason : null) : task.session?.reason;
  const [open, setOpen] = useState(() => firstKept(task.id, ["words"]) !== null);
  const opener = useRef(null);
  const close = () => {
    setOpen(false);
    opener.current.focus();
  };
  return html`<div class="heading">
    <div class="title">
      <a class="back" href="#" aria-label="All tasks">‹</a>
      <h1><bdi>${task.name}</bdi></h1>
      ${task.assignee === "human" ? html`<span class="kind">for you</span>`
        : html`<${SessionState} task=${task} />`}
    </div>
    ${reason && html`<p class="reason"><bdi>${reason}</bdi></p>`}
    ${task.title && task.title !== task.name
      && html`<p class="full-title"><bdi>${task.title}</bdi></p>`}
    <${Failure} failure=${task.session?.failure} session=${task.session} />
    <dl class="facts">
      <${Fact} name="status"><button type="button" class="quiet" ref=${opener}
        aria-expanded=${open} onClick=${() => setOpen(!open)}>${statusWord(task.status)}${" "}
        <span aria-hidden="true">▾</span></button><//>
      ${task.assignee === "human" && html`<${Fact} name="from"><bdi>${
        nameOfParty(task.creator ?? "user")}</bdi><//>`}
      ${task.holder && html`<${Fact} name="claimed by"><bdi>${nameOfParty(task.holder)}</bdi><//>`}
      ${task.branch && html`<${Fact} name="branch"><bdi class="mono">${task.branch}</bdi><//>`}
      ${task.worktree && html`<${Fact} name="worktree">
        <${Copyable} text=${task.worktree} what="worktree path" /><//>`}
      ${task.peers?.length > 0 && html`<${Fact} name="peers"><${Peers} task=${task} /><//>`}
      ${task.session?.version && html`<${Fact} name="claude" minor=${true}>${
        task.session.version}<//>`}
      ${task.session?.transports?.length > 0 && html`<${Fact} name="paths" minor=${true}>${
        task.session.transports.join(", ")}<//>`}
      <${Usage} usage=${task.session?.usage} />
    </dl>
    ${open && html`<${StatusPanel} task=${task} close=${close} />`}
  </div>`;
}

/** A turn that ended on an error of the API, and what will be done about it. */
function Failure({ failure, session }) {
  if (!failure) return null;
  const onward = failure.continues_at ? "" : " It does not continue by itself.";
  return html`<p class="failure" role="status"><strong>${failureOf(session)}.</strong>${" "}
    <bdi>${failure.text}</bdi>${onward}</p>`;
}

function Usage({ usage }) {
  if (!usage?.requests) return null;
  const given = usage.input_tokens + usage.cache_read_tokens + usage.cache_creation_tokens;
  const cost = usage.cost_usd === null ? "" : `, $${usage.cost_usd.toFixed(2)}`;
  return html`<${Fact} name="context">${tokensOf(usage.context_tokens)} tokens<//>
    <${Fact} name="used" minor=${true}>${tokensOf(given)} in, ${
      tokensOf(usage.output_tokens)} out${cost}<//>`;
}

/** `minor`: left out where there is little room. */
function Fact({ name, minor, children }) {
  return html`<div class="fact" data-minor=${minor}><dt>${name}</dt><dd>${children}</dd></div>`;
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
    return html`<span class="peer">${linked}${at < task.peers.length - 1 && ","}</span>`;
  });
}

/** A peer is named as the command line names it: by name in this workspace, or workspace/name. */
function peerNamed(name, workspace) {
  const all = [...tasks.value.values()].filter((task) => task.id);
  return all.find((task) => task.name === name && task.workspace === workspace)
    ?? all.find((task) => `${task.workspace}/${task.name}` === name)
    ?? all.find((task) => task.name === name);
}
