// How a session's state is shown: a dot whose form and colour differ, and always the word.

import { html } from "./html.js";
import { Age } from "./time.js";

/** The state's word; a task that never had a session is "not started". */
export const stateOf = (task) => task.session?.state ?? "not started";

/** Dot, word, what it waits for, and for how long. */
export function SessionState({ task }) {
  const { session } = task;
  return html`<span class="state" data-state=${session?.state ?? "none"}>
    <i class="dot"></i><span class="word">${stateOf(task)}</span>
    ${session?.waiting_for && html`<bdi class="waiting-for" title=${session.waiting_for}>${
      session.waiting_for}</bdi>`}
    ${session?.since && html`<${Age} since=${session.since} />`}
  </span>`;
}
