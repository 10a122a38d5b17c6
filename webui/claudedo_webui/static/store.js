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

/** Task id → {first, last, whole}: its messages are here without a gap between these two ids. */
export const spans = signal(new Map());

/** Ask id → ask (an element of `asks --json`). Closed ones stay a while, with their `outcome`. */
export const asks = signal(new Map());

/** [{id, name, root, counts}] */
export const workspaces = signal([]);

/** An array once they were fetched: tokens are looked at seldom. */
export const tokens = signal(null);

/** The machine's Claude sessions that are not ours, as elements of `ls --json`. */
export const others = signal([]);

/** Task id → how its status changed, oldest first. */
export const histories = signal(new Map());

/** Bytes that one attachment may have; the worker says it. */
export const attachmentLimit = signal(25 * 1024 * 1024);

/** "tasks", "task:<id>", "thread:<id>" and so on → why its last fetch failed. */
export const problems = signal(new Map());

/** "connecting", "live", "reconnecting" or "expired" (no valid cookie). */
export const connection = signal("connecting");

/** What the address's #fragment names: the id of the selected task, a place, or "" for nothing. */
export const selectedId = signal(fragmentId());

/** Fragments that are no tasks. */
export const PLACES = ["asks", "new", "workspaces"];

/** The name of the only workspace to be shown; "" for all. */
export const shownWorkspace = signal(sessionStorage.getItem("claudedo.workspace") ?? "");

export function showWorkspace(name) {
  shownWorkspace.value = name;
  sessionStorage.setItem("claudedo.workspace", name);
}

/** True of a task or an ask that is to be shown. */
export const isShown = ({ workspace }) =>
  shownWorkspace.value === "" || shownWorkspace.value === workspace;

export const openAsks = computed(() => [...asks.value.values()].filter((ask) => !ask.closed_at));

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

/** Replaces the open asks; returns the ids of those that were open and are not any more. */
export function putAsks(list) {
  const next = new Map([...asks.value].filter(([, ask]) => ask.closed_at));
  const fresh = list.filter((ask) => !next.has(ask.id)); // no late list opens one again
  for (const ask of fresh) next.set(ask.id, { ...asks.value.get(ask.id), ...ask });
  const gone = openAsks.value.filter((ask) => !next.has(ask.id));
  for (const ask of gone) next.set(ask.id, ask); // until it is known what became of it
  asks.value = inOrder(next);
  return gone.map((ask) => ask.id);
}

/** Merges what is new of an ask that is known. */
export function patchAsk(id, fields) {
  const old = asks.value.get(id);
  if (old) asks.value = new Map(asks.value).set(id, { ...old, ...fields });
  return Boolean(old);
}

export function dropAsk(id) {
  const rest = new Map(asks.value);
  if (rest.delete(id)) asks.value = rest;
}

const inOrder = (map) => new Map([...map].sort(([, a], [, b]) =>
  compare(a.opened_at, b.opened_at) || compare(a.id, b.id)));

export function putHistory(taskId, moves) {
  histories.value = new Map(histories.value).set(taskId, moves);
}

/** A status as people read it. */
export const statusWord = (status) => (status === "notstarted" ? "not started" : status);

/** How a party ("user", "task:<id>", "token:<id>") is called. */
export function nameOfParty(party) {
  if (party === "user") return "you";
  const [kind, id] = party.split(":", 2);
  if (kind === "task") return tasks.value.get(id)?.name ?? "a task that was removed";
  return tokens.value?.find((token) => token.id === id)?.name ?? "a client";
}

/** Merges messages into a thread. A receipt, once known, is never taken back. */
export function putMessages(taskId, messages) {
  const thread = new Map(threads.value.get(taskId));
  for (const message of messages) {
    thread.set(message.id, mergeMessage(thread.get(message.id), message));
  }
  threads.value = new Map(threads.value).set(taskId, thread);
}

/** Forgets all messages of a thread but these. */
export function keepMessages(taskId, messages) {
  const kept = new Set(messages.map(({ id }) => id));
  const thread = [...threads.value.get(taskId) ?? []].filter(([id]) => kept.has(id));
  threads.value = new Map(threads.value).set(taskId, new Map(thread));
}

export function putSpan(taskId, span) {
  spans.value = new Map(spans.value).set(taskId, span);
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
  const order = (a, b) => compare(a.created_at, b.created_at);
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
