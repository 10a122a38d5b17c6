// The page: a bar, the tasks at the left, the selected task at the right.

import { effect } from "@preact/signals";
import { render } from "preact";
import { html } from "./html.js";
import { start } from "./live.js";
import { connection, loaded, problems, selected, selectedId, tasks } from "./store.js";
import { TaskList } from "./tasklist.js";
import { TaskView } from "./taskview.js";

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
  if (tasks.value.size === 0) return html`<${Bar} /><${NoTasks} />`;
  const task = selected.value;
  return html`<${Bar} />
    <div class="columns" data-view=${selectedId.value ? "task" : "list"}>
      <${TaskList} />
      ${task ? html`<${TaskView} key=${task.id} task=${task} />` : html`<${Nothing} />`}
    </div>`;
}

effect(() => {
  const waiting = [...tasks.value.values()].filter((t) => t.session?.state === "waiting").length;
  const name = selected.value ? `${selected.value.name} · claudedo` : "claudedo";
  document.title = waiting > 0 ? `(${waiting}) ${name}` : name;
});

const root = document.getElementById("page");
root.replaceChildren();
render(html`<${Page} />`, root);
start();
