// A form for a task: an agent's waits to be started or claimed, a person's is a reminder.

import { useState } from "preact/hooks";
import { ApiError } from "./api.js";
import { create } from "./deeds.js";
import { newKey } from "./drafts.js";
import { html } from "./html.js";
import { hrefOf, shownWorkspace, workspaces } from "./store.js";

export function NewTask() {
  const [key, setKey] = useState(newKey);
  const [fields, setFields] = useState({ title: "", body: "", assignee: "agent" });
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const list = workspaces.value;
  const workspace = fields.workspace || shownWorkspace.value || list[0]?.name || "";
  const change = (name) => (event) => {
    setFields({ ...fields, [name]: event.currentTarget.value });
    setKey(newKey()); // another task than the one that may have been sent
    setError(null);
  };
  const make = async () => {
    setBusy(true);
    try {
      const made = await create({ ...fields, workspace, key });
      location.hash = hrefOf(made.id);
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      setError(failure.message);
      setBusy(false);
    }
  };
  const ready = !busy && workspace && fields.title.trim() && fields.body.trim();
  return html`<main class="view" aria-label="New task">
    <div class="heading"><div class="title"><a class="back" href="#" aria-label="All tasks">‹</a>
      <h1>New task</h1></div></div>
    ${list.length === 0 ? html`<p class="notice">There is no workspace yet: run
      <code>claudedo start</code> in a repository.</p>` : html`<div class="sheet">
      <label><span>Title</span><input type="text" maxlength="300" value=${fields.title}
        onInput=${change("title")} /></label>
      <label><span>What is to be done</span><textarea rows="8" value=${fields.body}
        onInput=${change("body")}></textarea></label>
      <div class="pair">
        <label><span>For</span><select value=${fields.assignee} onChange=${change("assignee")}>
          <option value="agent">an agent</option><option value="human">me</option></select></label>
        <label><span>Workspace</span><select value=${workspace} onChange=${change("workspace")}>${
          list.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)
        }</select></label>
      </div>
      <p class="muted">${fields.assignee === "agent"
        ? "It waits until a session or a client claims it with getTask."
        : "It waits among your asks until you say that it is done."}</p>
      ${error && html`<p class="bad" role="alert">Not created. ${error}</p>`}
      <div class="choices"><button type="button" class="send" disabled=${!ready}
        onClick=${make}>Create</button></div>
    </div>`}
  </main>`;
}
