// The page: a bar, the tasks at the left, the selected task at the right.

import { effect } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Asks } from "./asks.js";
import { plural } from "./counts.js";
import { html } from "./html.js";
import { start } from "./live.js";
import { NewTask } from "./newtask.js";
import {
  asks, connection, loaded, openAsks, others, problems, selected, selectedId, tasks,
} from "./store.js";
import { TaskList } from "./tasklist.js";
import { TaskView } from "./taskview.js";
import { keepPage } from "./uploads.js";
import { Workspaces } from "./workspaces.js";

const CONNECTION_WORDS = {
  connecting: "connecting", live: "live", reconnecting: "reconnecting", expired: "signed out",
};

function Bar() {
  const state = connection.value;
  const away = state === "reconnecting" && problems.value.has("tasks");
  return html`<header class="bar">
    <a class="brand" href="#">claudedo</a>
    ${away && html`<span class="away">The worker does not answer; sessions keep running:${" "}
      <code>claudedo worker start</code></span>`}
    <span class="connection" data-state=${state} role="status"><i class="dot"></i>${
      CONNECTION_WORDS[state]}</span>
  </header>`;
}

function Expired() {
  return html`<main class="plain">
    <h1>This page is signed out</h1>
    <p>Its one-time link was used elsewhere, or its time is over. Get a new one:</p>
    <pre><code>claudedo open</code></pre>
    <p>This tab continues by itself when you come back to it.</p>
  </main>`;
}

function NoTasks() {
  return html`<main class="plain">
    <h1>No tasks yet</h1>
    <p>Start two linked Claude sessions, each in its own worktree, from inside a repository:</p>
    <pre><code>claudedo start backend="Build the API" frontend="Build the page"</code></pre>
    <p>They appear here by themselves.</p>
  </main>`;
}

function Waiting() {
  const problem = problems.value.get("tasks");
  return html`<main class="plain">
    ${problem && html`<h1>The worker does not answer</h1><p>${problem}</p>
      <p>Sessions keep running without it. Any command starts it again:</p>
      <pre><code>claudedo worker start</code></pre>`}
  </main>`;
}

function Nothing() {
  const gone = selectedId.value !== "";
  return html`<main class="nothing"><p>${gone
    ? "This task does not exist (any more)."
    : "Select a task to see what was said and how far it came."}</p>
    ${gone && html`<p><a href="#">All tasks</a></p>`}</main>`;
}

function Page() {
  if (connection.value === "expired") return html`<${Bar} /><${Expired} />`;
  if (!loaded.value) return html`<${Bar} /><${Waiting} />`;
  const empty = tasks.value.size === 0 && others.value.length === 0 && selectedId.value === "";
  if (empty) return html`<${Bar} /><${NoTasks} />`;
  return html`<${Bar} />
    <p class="unseen" role="status">${plural(openAsks.value.length, "ask")} for you</p>
    <div class="columns" data-view=${selectedId.value ? "task" : "list"}>
      <${TaskList} />
      <${Place} />
    </div>`;
}

const ONE_COLUMN = matchMedia("(max-width: 720px)"); // as in style.css

/** Where one column is shown at a time, the keyboard and the reader go with what is shown. */
function useArrival() {
  const before = useRef(selectedId.value);
  useEffect(() => {
    if (before.current === selectedId.value) return;
    before.current = selectedId.value;
    if (ONE_COLUMN.matches) document.querySelector(selectedId.value ? "main" : "nav")?.focus();
  }, [selectedId.value]);
}

function Place() {
  useArrival();
  const task = selected.value;
  if (task) return html`<${TaskView} key=${task.id} task=${task} />`;
  if (selectedId.value === "new") return html`<${NewTask} />`;
  if (selectedId.value === "workspaces") return html`<${Workspaces} />`;
  const asked = selectedId.value === "" && asks.value.size > 0;
  return asked || selectedId.value === "asks" ? html`<${Asks} />` : html`<${Nothing} />`;
}

/** What waits for the person: asks, and sessions at a dialog that only their terminal shows. */
function waitingCount() {
  const asking = new Set(openAsks.value.map((ask) => ask.task));
  const dialogs = [...tasks.value.values()]
    .filter((task) => task.session?.state === "waiting" && !asking.has(task.id));
  return openAsks.value.length + dialogs.length;
}

effect(() => {
  const waiting = waitingCount();
  const name = selected.value ? `${selected.value.name} · claudedo` : "claudedo";
  document.title = waiting > 0 ? `(${waiting}) ${name}` : name;
});

const root = document.getElementById("page");
root.replaceChildren();
render(html`<${Page} />`, root);
keepPage();
start();
