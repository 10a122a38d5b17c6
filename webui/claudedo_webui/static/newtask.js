// A form for a task: an agent's waits to be started or claimed, a person's is a reminder.

import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { ApiError } from "./api.js";
import { sizeOf } from "./counts.js";
import { create } from "./deeds.js";
import { newKey } from "./drafts.js";
import { html } from "./html.js";
import { forget, useKept } from "./kept.js";
import { attachmentLimit, hrefOf, shownWorkspace, workspaces } from "./store.js";
import { chooseFiles, useDrop } from "./uploads.js";

const FORM = "new task";
const MOST_BYTES = 28 * 1024 * 1024; // of all files: they go in one request, in base64
const EMPTY = Object.freeze({ title: "", body: "", assignee: "agent", key: null });

const files = signal([]); // those that go with it; they cannot survive a reload

export function NewTask() {
  const [fields, setFields] = useKept(FORM, EMPTY);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const list = workspaces.value;
  const workspace = fields.workspace || shownWorkspace.value || list[0]?.name || "";
  const put = (changes) => {
    setFields({ ...fields, ...changes, key: newKey() }); // another task than one that may be sent
    setError(null);
  };
  const change = (name) => (event) => put({ [name]: event.currentTarget.value });
  const putFiles = (chosen) => {
    files.value = chosen;
    put({});
  };
  const make = async () => {
    setBusy(true);
    try {
      checkSizes(files.value);
      const attachments = await Promise.all(files.value.map(encoded));
      const made = await create({ ...fields, workspace, attachments });
      files.value = [];
      forget(FORM);
      location.hash = hrefOf(made.id);
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      setError(failure.message);
      setBusy(false);
    }
  };
  const paste = (event) => {
    if (event.clipboardData.files.length === 0) return;
    event.preventDefault();
    putFiles([...files.value, ...event.clipboardData.files]);
  };
  const drop = useDrop((dropped) => putFiles([...files.value, ...dropped]));
  const ready = !busy && workspace && fields.title.trim() && fields.body.trim();
  return html`<main class="view scrolls" tabindex="-1" aria-label="New task" ...${drop}>
    <div class="heading"><div class="title"><a class="back" href="#" aria-label="All tasks">‹</a>
      <h1>New task</h1></div></div>
    ${list.length === 0 ? html`<p class="notice">There is no workspace yet: run
      <code>claudedo start</code> in a repository.</p>` : html`<div class="sheet">
      <label><span>Title</span><input type="text" maxlength="300" value=${fields.title}
        onInput=${change("title")} /></label>
      <label><span>What is to be done</span><textarea rows="8" value=${fields.body}
        onInput=${change("body")} onPaste=${paste}></textarea></label>
      <${Files} list=${files.value} busy=${busy} put=${putFiles} />
      <div class="pair">
        <label><span>For</span><select value=${fields.assignee} onChange=${change("assignee")}>
          <option value="agent">an agent</option><option value="human">me</option></select></label>
        <label><span>Workspace</span><select value=${workspace} onChange=${change("workspace")}>${
          list.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)
        }</select></label>
      </div>
      <p class="muted">${fields.assignee === "agent"
        ? html`It waits until you give its name to <code>claudedo start</code>, or a session or a
          client claims it.`
        : "It waits among your asks until you say that it is done."}</p>
      ${error && html`<p class="bad" role="alert">Not created. ${error}</p>`}
      <div class="choices"><button type="button" class="send" disabled=${!ready}
        onClick=${make}>${busy ? "Creating…" : "Create"}</button></div>
    </div>`}
  </main>`;
}

function Files({ list, busy, put }) {
  return html`<div class="choices">
    <button type="button" class="attach" disabled=${busy} onClick=${() =>
      chooseFiles((chosen) => put([...list, ...chosen]))}>Attach</button>
    ${list.length > 0 && html`<ul class="files" aria-label="Files to send">${list.map((file, at) =>
      html`<li key=${at}><bdi class="file-name">${file.name}</bdi>
        <span class="muted">${sizeOf(file.size)}</span>
        <button type="button" class="quiet" disabled=${busy}
          aria-label=${`Do not attach ${file.name}`}
          onClick=${() => put(list.filter((other) => other !== file))}>×</button></li>`)}</ul>`}
  </div>`;
}

function checkSizes(list) {
  const large = list.find((file) => file.size > attachmentLimit.value);
  if (large) {
    throw new ApiError("too_large", `${large.name} has ${sizeOf(large.size)}; at most ${
      sizeOf(attachmentLimit.value)} are possible.`);
  }
  const sum = list.reduce((total, file) => total + file.size, 0);
  if (sum <= MOST_BYTES) return;
  throw new ApiError("too_large", `The files have ${sizeOf(sum)}; at most ${sizeOf(MOST_BYTES)} `
    + "can come with a new task. Send the others as a message to it.");
}

/** A file as `createTask` takes it. */
function encoded(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onerror = () => reject(new ApiError("usage", `${file.name} cannot be read.`));
    reader.onload = () => resolve({
      filename: file.name,
      mimeType: /^[\w.+-]+\/[\w.+-]+$/.test(file.type) ? file.type : null,
      data: reader.result.slice(reader.result.indexOf(",") + 1),
    });
    reader.readAsDataURL(file);
  });
}
