// The box at the bottom: writes the draft of a task and sends it.

import { useLayoutEffect, useRef } from "preact/hooks";
import { draftOf, edit, send, sendable, submit } from "./drafts.js";
import { html } from "./html.js";
import { connection } from "./store.js";

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
  const sending = draft.phase === "sending";
  return html`<section class="composer" aria-label="Send a message">
    ${draft.replyTo && html`<${ReplyTo} task=${task} draft=${draft} />`}
    <textarea id="composer-text" ref=${box} rows="2" value=${draft.text} readOnly=${sending}
      aria-label=${`Message to ${task.name}`} aria-describedby="composer-note"
      placeholder=${`Message to ${task.name}`} onKeyDown=${keyDown}
      onInput=${(event) => edit(task.id, { text: event.currentTarget.value })}></textarea>
    <div class="send-row">
      <div class="note" id="composer-note"><${Note} task=${task} draft=${draft} /></div>
      <label class="choice"><span class="unseen">Priority</span>
        <select value=${draft.priority} disabled=${sending} data-priority=${draft.priority}
          onChange=${(event) => edit(task.id, { priority: event.currentTarget.value })}>
          ${PRIORITIES.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
        </select></label>
      <button type="button" class="send" disabled=${!sendable(draft)}
        onClick=${() => submit(task.id)}>Send</button>
    </div>
  </section>`;
}

function ReplyTo({ task, draft }) {
  return html`<p class="reply-to"><span>reply to <bdi>${draft.replyTo.text}</bdi></span>
    <button type="button" class="quiet" aria-label="Do not reply to it" onClick=${() =>
      edit(task.id, { replyTo: null })}>×</button></p>`;
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
  if (!task.session) return html`<span>Kept until the session is started.</span>`;
  if (ASLEEP.includes(task.session.state)) {
    return html`<span>Kept until <code>claudedo restart ${task.name}</code>.</span>`;
  }
  return html`<span class="keys"><kbd>Enter</kbd> sends, <kbd>Shift Enter</kbd> breaks the line
  </span>`;
}
