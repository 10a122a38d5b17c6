// The box at the bottom: writes the draft of a task and sends it, with files.

import { useLayoutEffect, useRef } from "preact/hooks";
import { sizeOf } from "./counts.js";
import { draftOf, dropFile, edit, send, sendable, submit, uploading } from "./drafts.js";
import { html } from "./html.js";
import { standingOf } from "./session.js";
import { connection, nameOfParty } from "./store.js";
import { attach, choose } from "./uploads.js";

const PRIORITIES = ["normal", "high", "halt"];
const ASLEEP = ["stopped", "interrupted", "failed"];

export function Composer({ task }) {
  const draft = draftOf(task.id);
  const box = useRef(null);
  useLayoutEffect(() => {
    box.current.style.height = "auto";
    box.current.style.height = `${box.current.scrollHeight + 2}px`; // its two borders
  }, [draft.text]);
  const keyDown = (event) => {
    if (event.key === "Escape" && draft.phase === "confirming") edit(task.id, {});
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit(task.id);
  };
  const paste = (event) => {
    if (event.clipboardData.files.length === 0) return;
    event.preventDefault();
    attach(task.id, event.clipboardData.files);
  };
  const press = (event) => {
    if (event.detail === 0) box.current.focus(); // by key: a button that is disabled has no focus
    submit(task.id);
  };
  const sending = draft.phase === "sending";
  const label = `Message to ${recipientName(task)}`;
  return html`<section class="composer" aria-label="Send a message">
    ${draft.replyTo && html`<${ReplyTo} task=${task} draft=${draft} />`}
    <textarea id="composer-text" ref=${box} rows="2" value=${draft.text} readOnly=${sending}
      aria-label=${label} aria-describedby="composer-note" placeholder=${label}
      onKeyDown=${keyDown} onPaste=${paste}
      onInput=${(event) => edit(task.id, { text: event.currentTarget.value })}></textarea>
    ${draft.files.length > 0 && html`<${Files} task=${task} files=${draft.files} />`}
    <div class="send-row">
      <div class="note" id="composer-note"><${Note} task=${task} draft=${draft} /></div>
      <button type="button" class="attach" disabled=${sending} onClick=${() => choose(task.id)}
        title="Attach files; they can also be dropped or pasted here">Attach</button>
      <label class="choice"><span class="unseen">Priority</span>
        <select value=${draft.priority} disabled=${sending} data-priority=${draft.priority}
          onChange=${(event) => edit(task.id, { priority: event.currentTarget.value })}>
          ${PRIORITIES.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
        </select></label>
      <button type="button" class="send" disabled=${!sendable(draft)} onClick=${press}
        >Send</button>
    </div>
  </section>`;
}

/** Who gets what is written here: whoever made a person's task, else who works on the task. */
function recipientName(task) {
  const party = task.assignee === "human" ? task.creator : task.holder;
  return party && party !== "user" ? nameOfParty(party) : task.name;
}

function ReplyTo({ task, draft }) {
  return html`<p class="reply-to"><span>reply to <bdi>${draft.replyTo.text}</bdi></span>
    <button type="button" class="quiet" aria-label="Do not reply to it" onClick=${() =>
      edit(task.id, { replyTo: null })}>×</button></p>`;
}

function Files({ task, files }) {
  return html`<ul class="files" aria-label="Files to send">${files.map((file) => html`
    <li key=${file.key}><bdi class="file-name">${file.filename}</bdi>
      <${FileState} file=${file} />
      <button type="button" class="quiet" aria-label=${`Do not attach ${file.filename}`}
        onClick=${() => dropFile(task.id, file.key)}>×</button></li>`)}</ul>`;
}

function FileState({ file }) {
  if (file.error) return html`<span class="bad" role="alert">Not attached. ${file.error}</span>`;
  if (file.id) return html`<span class="muted">${sizeOf(file.size)}</span>`;
  return html`<progress max=${file.size || 1} value=${file.sent}
    aria-label=${`Uploading ${file.filename}`}></progress>`;
}

/** One line under the box: a question, a failure, or what will happen. */
function Note({ task, draft }) {
  if (draft.phase === "confirming") {
    return html`<span role="alert">Halt ends the running turn. Really?</span>
      <button type="button" class="danger" onClick=${() => send(task.id)}>Halt and send</button>
      <button type="button" class="quiet" onClick=${() => edit(task.id, {})}>Cancel</button>`;
  }
  if (draft.phase === "sending") return html`<span role="status">Sending…</span>`;
  if (draft.error) {
    return html`<span class="bad" role="alert">Not sent. ${draft.error}</span>
      <button type="button" class="quiet" onClick=${() => submit(task.id)}>Retry</button>`;
  }
  if (connection.value !== "live") return html`<span>No connection; your text is kept.</span>`;
  if (uploading(draft)) return html`<span role="status">Uploading…</span>`;
  return html`<${Fate} task=${task} />`;
}

/** What will become of a message. */
function Fate({ task }) {
  if (task.assignee === "human") {
    return task.creator === "user" ? html`<span>A note to yourself.</span>`
      : html`<span>Goes to <bdi>${nameOfParty(task.creator)}</bdi>, who asked.</span>`;
  }
  if (task.holder) {
    return html`<span>Goes to <bdi>${nameOfParty(task.holder)}</bdi>, who works on it.</span>`;
  }
  const standing = standingOf(task);
  if (standing?.status === "queued") return html`<span>Joins its prompt.</span>`;
  if (standing) return html`<span>Kept until <code>claudedo queue run ${task.name}</code>.</span>`;
  if (!task.session) return html`<span>Kept until a session is started or claims it.</span>`;
  if (ASLEEP.includes(task.session.state)) {
    return html`<span>Kept until <code>claudedo restart ${task.name}</code>.</span>`;
  }
  return html`<span class="keys"><kbd>Enter</kbd> sends, <kbd>Shift Enter</kbd> breaks the line
  </span>`;
}
