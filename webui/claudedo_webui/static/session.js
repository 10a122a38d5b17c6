// How a session's state is shown: a dot whose form and colour differ, and always the word.

import { html } from "./html.js";
import { Age, momentOf } from "./time.js";

const FAILURES = {
  rate_limit: "rate limit", overloaded: "overloaded", authentication: "signed out of Claude",
  billing: "billing", request: "refused request",
};

const LIVE = ["starting", "idle", "busy", "waiting"];

/** How a one-shot stands that no session works on; null for every other task. */
export const standingOf = (task) =>
  (task.queue && !LIVE.includes(task.session?.state) ? task.queue : null);

/** The state's word; a task that never had a session is "not started". */
export const stateOf = (task) =>
  standingOf(task)?.status ?? task.session?.state ?? "not started";

/** "rate limit, continues 14:05"; null without a failure. */
export function failureOf(session) {
  const failure = session?.failure;
  if (!failure) return null;
  const kind = FAILURES[failure.kind] ?? failure.kind;
  return failure.continues_at ? `${kind}, continues ${momentOf(failure.continues_at)}` : kind;
}

/** Dot, word, what it waits for, and for how long. */
export function SessionState({ task }) {
  const { session } = task;
  const failure = failureOf(session);
  const why = failure ?? session?.waiting_for;
  return html`<span class="state" data-state=${
    standingOf(task)?.status ?? session?.state ?? "none"}>
    <i class="dot"></i><span class="word">${stateOf(task)}</span>
    ${why && html`<bdi class=${failure ? "waiting-for limited" : "waiting-for"} title=${why}>${
      why}</bdi>`}
    ${session?.since && html`<${Age} since=${session.since} />`}
  </span>`;
}
