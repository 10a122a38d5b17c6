// The workspaces, to be renamed or deleted, and the tokens that let other clients in.
// Tokens are made in a terminal: their text is shown there once, and never here.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api.js";
import { plural } from "./counts.js";
import { deleteWorkspace, renameWorkspace, revokeToken, stopSessions } from "./deeds.js";
import { html } from "./html.js";
import { isShown, problems, tasks, tokens, workspaces } from "./store.js";
import { Age, momentOf } from "./time.js";

export function Workspaces() {
  const problem = problems.value.get("workspaces");
  return html`<main class="view scrolls" tabindex="-1" aria-label="Workspaces and tokens">
    <div class="heading"><div class="title"><a class="back" href="#" aria-label="All tasks">‹</a>
      <h1>Workspaces and tokens</h1></div></div>
    <div class="sheet wide">
      <h2>Workspaces</h2>
      ${problem && html`<p class="bad">They could not be fetched. ${problem}</p>`}
      <ul class="rows" aria-label="Workspaces">${workspaces.value.map((one) =>
        html`<${Workspace} key=${one.id} one=${one} />`)}</ul>
      ${workspaces.value.length === 0 && html`<p class="muted">None yet: the first
        <code>claudedo start</code> in a repository makes one.</p>`}
      <h2>Tokens</h2>
      <p class="muted">A token lets another MCP client into one workspace. It is made, and its text
        shown once, in a terminal inside the repository:</p>
      <pre><code>claudedo token create --name laptop --mcp-json</code></pre>
      <${Tokens} />
    </div>
  </main>`;
}

/** Runs `deed`; gives its state: whether it runs, and why it failed. */
function useDeed() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const run = async (deed) => {
    setBusy(true);
    setError(null);
    try {
      await deed();
      return true;
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      setError(failure);
      return false;
    } finally {
      setBusy(false);
    }
  };
  return { busy, error, run };
}

function Workspace({ one }) {
  const [open, setOpen] = useState(null); // "rename" or "delete"
  const { busy, error, run } = useDeed();
  const act = async (deed) => (await run(deed)) && setOpen(null);
  const toggle = (what) => setOpen(open === what ? null : what);
  return html`<li class="row">
    <div class="row-head"><strong><bdi>${one.name}</bdi></strong>
      <span class="muted">${plural(one.counts?.tasks ?? 0, "task")}</span>
      <span class="row-acts">
        <button type="button" class="quiet" aria-expanded=${open === "rename"}
          aria-label=${`Rename ${one.name}`} onClick=${() => toggle("rename")}>rename</button>
        <button type="button" class="quiet bad" aria-expanded=${open === "delete"}
          aria-label=${`Delete ${one.name}`} onClick=${() => toggle("delete")}>delete</button>
      </span></div>
    <bdi class="mono muted path">${one.root}</bdi>
    ${open === "rename" && html`<${Named} label="New name" button="Rename" first=${one.name}
      busy=${busy} ready=${(text) => text && text !== one.name}
      go=${(text) => act(() => renameWorkspace(one.id, text))} />`}
    ${open === "delete" && html`<${Deletion} one=${one} busy=${busy} error=${error} act=${act}
      run=${run} />`}
    ${error && html`<p class="bad" role="alert">${error.message}</p>`}
  </li>`;
}

const RUNNING = ["starting", "idle", "busy", "waiting"];

/** What a deletion takes: no session that runs, the name, and a second word if work is lost. */
function Deletion({ one, busy, error, act, run }) {
  const running = [...tasks.value.values()].filter((task) =>
    task.workspace === one.name && RUNNING.includes(task.session?.state));
  if (running.length > 0) {
    return html`<p>Its sessions must be ended first.${" "}
      <button type="button" disabled=${busy} onClick=${() =>
        run(() => stopSessions(running.map((task) => task.id)))}>End ${
        plural(running.length, "session")}</button></p>`;
  }
  return html`<p>This deletes its ${plural(one.counts?.tasks ?? 0, "task")} with worktrees, threads,
      files and tokens. The repository stays.</p>
    <${Named} label=${`Type ${one.name} to confirm`} button="Delete all of it" danger=${true}
      busy=${busy} ready=${(text) => text === one.name}
      go=${() => act(() => deleteWorkspace(one.id, false))} />
    ${error?.code === "refused" && html`<p><button type="button" class="danger" disabled=${busy}
      onClick=${() => act(() => deleteWorkspace(one.id, true))}
      >Delete it all the same</button></p>`}`;
}

/** A name to be typed, and what it is for. */
function Named({ label, button, first = "", busy, ready, go, danger }) {
  const [text, setText] = useState(first);
  const box = useRef(null);
  useLayoutEffect(() => box.current.focus(), []);
  const may = !busy && ready(text.trim());
  return html`<div class="named"><label><span><bdi>${label}</bdi></span>
      <input ref=${box} type="text" value=${text} autocomplete="off" spellcheck=${false}
        onInput=${(event) => setText(event.currentTarget.value)}
        onKeyDown=${(event) => event.key === "Enter" && may && go(text.trim())} /></label>
    <button type="button" class=${danger ? "danger" : ""} disabled=${!may}
      onClick=${() => go(text.trim())}>${button}</button></div>`;
}

function Tokens() {
  const problem = problems.value.get("tokens");
  if (problem) return html`<p class="bad">They could not be fetched. ${problem}</p>`;
  const list = tokens.value?.filter(isShown);
  if (!list) return html`<p class="muted">Fetching…</p>`;
  if (list.length === 0) return html`<p class="muted">No tokens.</p>`;
  return html`<ul class="rows" aria-label="Tokens">${list.map((one) =>
    html`<${Token} key=${one.id} one=${one} />`)}</ul>`;
}

function Token({ one }) {
  const [sure, setSure] = useState(false);
  const { busy, error, run } = useDeed();
  const end = one.revoked_at ? "revoked" : "expired";
  const state = one.valid ? `until ${momentOf(one.expires_at)}` : end;
  return html`<li class="row" data-over=${!one.valid}>
    <div class="row-head"><strong><bdi>${one.name}</bdi></strong>
      <span class="muted"><bdi>${one.workspace}</bdi></span>
      <span class=${one.valid ? "" : "muted"}>${state}</span>
      <span class="muted">${one.last_used_at
        ? html`used <${Age} since=${one.last_used_at} /> ago` : "never used"}</span>
      ${one.sessions > 0 && html`<span class="muted">${plural(one.sessions, "session")}</span>`}
      ${one.valid && html`<span class="row-acts"><button type="button" class="quiet bad"
        aria-expanded=${sure} aria-label=${`Revoke ${one.name}`}
        onClick=${() => setSure(!sure)}>revoke</button></span>`}</div>
    ${sure && one.valid && html`<p>Who is connected with it is cut off at once, for good.${" "}
      <button type="button" class="danger" disabled=${busy} onClick=${() =>
        run(() => revokeToken(one.id))}>Revoke it</button></p>`}
    ${one.valid && html`<p class="muted">A new text for it:
      <code class="block">claudedo token rotate ${one.id} --mcp-json</code></p>`}
    ${error && html`<p class="bad" role="alert">${error.message}</p>`}
  </li>`;
}
