// What the page knows: tasks, threads, the connection, the selection. Changes are merges, so an
// answer or an event that comes late, twice or out of order does no harm.

import { computed, signal } from "@preact/signals";

/** Task id → task (an element of `ls --json`, plus the details once they were fetched). */
export const tasks = signal(new Map());

/** Ids of tasks that were removed: an answer that was under way must not bring one back. */
const removed = new Set();

/** False until the first list of tasks came. */
export const loaded = signal(false);

/** Task id → (message id → message). */
export const threads = signal(new Map());

/** "tasks", "task:<id>", "thread:<id>" or "message:<id>" → why its last fetch failed. */
export const problems = signal(new Map());

/** "connecting", "live", "reconnecting" or "expired" (no valid cookie). */
export const connection = signal("connecting");

/** The id of the selected task, from the address's #fragment; "" when none is. */
export const selectedId = signal(fragmentId());

export const selected = computed(() => tasks.value.get(selectedId.value) ?? null);

addEventListener("hashchange", () => {
  selectedId.value = fragmentId();
});

function fragmentId() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // somebody's malformed % escape names no task
  }
}

/** The address of a task on this page. */
export const hrefOf = (id) => `#${encodeURIComponent(id)}`;

/** A session that was not started here may have no task id; its conversation names it then. */
export const keyOf = (task) => task.id ?? `other:${task.session?.session_id ?? task.session?.pid}`;

/** Replaces the list; details already known stay. */
export function putTasks(list) {
  const there = list.filter((task) => !removed.has(task.id));
  tasks.value = new Map(there.map((task) => [keyOf(task), mergeTask(task)]));
  loaded.value = true;
}

/** Adds one task, or merges it into what is known of it. */
export function putTask(task) {
  if (removed.has(task.id)) return;
  tasks.value = new Map(tasks.value).set(keyOf(task), mergeTask(task));
}

/** The list carries less of a session than its task's own route: what is known of it stays. */
function mergeTask(task) {
  const old = tasks.value.get(keyOf(task));
  const merged = { ...old, ...task };
  if (old?.session && old.session.session_id === task.session?.session_id) {
    merged.session = { ...old.session, ...task.session };
  }
  return merged;
}

/** Changes some fields of a task that is known; false if it is not. */
export function patchTask(id, fields) {
  const old = tasks.value.get(id);
  if (old) putTask({ ...old, ...fields });
  return Boolean(old);
}

export function dropTask(id) {
  removed.add(id);
  const rest = new Map(tasks.value);
  rest.delete(id);
  tasks.value = rest;
}

/** Merges messages into a thread. A receipt, once known, is never taken back. */
export function putMessages(taskId, messages) {
  const thread = new Map(threads.value.get(taskId));
  for (const message of messages) {
    thread.set(message.id, mergeMessage(thread.get(message.id), message));
  }
  threads.value = new Map(threads.value).set(taskId, thread);
}

function mergeMessage(old, message) {
  if (!old) return message;
  const receipts = { ...old.receipts };
  for (const [rung, time] of Object.entries(message.receipts ?? {})) receipts[rung] ??= time;
  return { ...old, ...message, receipts, via: message.via ?? old.via };
}

/** Merges receipts into a message, in every thread that shows it; false if none does. */
export function putReceipts(messageId, { receipts, via }) {
  let found = false;
  for (const [taskId, thread] of threads.value) {
    if (!thread.has(messageId)) continue;
    putMessages(taskId, [{ id: messageId, receipts, via }]);
    found = true;
  }
  return found;
}

/** A thread in the order it was said. */
export function timeline(taskId) {
  const order = (a, b) => compare(a.created_at, b.created_at) || compare(a.id, b.id);
  return [...(threads.value.get(taskId)?.values() ?? [])].sort(order);
}

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

export function setProblem(key, text) {
  if ((problems.value.get(key) ?? null) === text) return;
  const next = new Map(problems.value);
  if (text === null) next.delete(key);
  else next.set(key, text);
  problems.value = next;
}
