// How far a task is: the moves that are possible, and those that were made.

import { useEffect, useState } from "preact/hooks";
import { ApiError } from "./api.js";
import { move } from "./deeds.js";
import { html } from "./html.js";
import { forget, useKept } from "./kept.js";
import { refreshHistory } from "./live.js";
import { histories, problems, statusWord } from "./store.js";
import { momentOf } from "./time.js";

/** The panel that the status in the heading opens. */
export function StatusPanel({ task, close }) {
  const kept = `${task.id} words`;
  const [words, setWords] = useKept(kept, "");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  useEffect(() => refreshHistory(task.id), [task.id]);
  const go = async (status) => {
    setBusy(true);
    setError(null);
    try {
      await move(task.id, status, words.trim());
      forget(kept);
      close();
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      setError(failure.message);
      setBusy(false);
    }
  };
  const escape = (event) => event.key === "Escape" && close();
  const moves = task.moves ?? [];
  return html`<section class="panel" aria-label="Status" onKeyDown=${escape}>
    <div class="choices">${moves.map((status) => html`<button type="button" key=${status}
      disabled=${busy} onClick=${() => go(status)}>make it ${statusWord(status)}</button>`)}
      ${moves.length === 0 && html`<span class="muted">No move is possible.</span>`}</div>
    ${moves.length > 0 && html`<label class="own"><span>With words to ${
      task.assignee === "human" ? "who asked" : "who works on it"} (optional)</span>
      <textarea rows="1" value=${words}
        onInput=${(event) => setWords(event.currentTarget.value)}></textarea></label>`}
    ${error && html`<p class="bad" role="alert">${error}</p>`}
    <${History} task=${task} />
  </section>`;
}

function History({ task }) {
  const list = histories.value.get(task.id);
  const problem = problems.value.get(`history:${task.id}`);
  if (problem) return html`<p class="bad">The history could not be fetched. ${problem}</p>`;
  if (!list) return null;
  if (list.length === 0) return html`<p class="muted">It was never changed.</p>`;
  return html`<ol class="history" aria-label="History">${list.map((one, number) =>
    html`<${Move} key=${number} ...${one} />`)}</ol>`;
}

function Move({ at, before, after, party, name }) {
  return html`<li><time datetime=${at}>${momentOf(at)}</time>
    <span>${statusWord(before)} → <strong>${statusWord(after)}</strong></span>
    <span class="muted">by <bdi>${party === "user" ? "you" : name}</bdi></span></li>`;
}
