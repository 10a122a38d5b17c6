// Keeps the store true to the worker: fetches over HTTP, hears of changes over Socket.IO.
// An event means "this changed": it is used for what it carries, the rest is fetched again.

import { effect } from "@preact/signals";
import { io } from "socket.io-client";
import { ApiError } from "./api.js";
import { expire, gathered, load, pathOf, perId, signedIn } from "./fetching.js";
import {
  PLACES, asks, attachmentLimit, connection, dropAsk, dropTask, histories, loaded, others,
  patchAsk, patchTask, putAsks, putHistory, putTask, putTasks, selectedId, tasks, tokens,
  workspaces,
} from "./store.js";
import { catchUp, hearReceipts, refreshThread } from "./threads.js";

const OTHERS_MS = 60_000; // sessions that are not ours tell nothing by themselves
const CLOSED_MS = 15_000; // so long a decided ask says who decided
const ACK_TIMEOUT_MS = 15_000;

let lastSeq = null; // the newest event heard of; what came after it is asked for on reconnecting

const socket = io({
  autoConnect: false,
  auth: (give) => give(lastSeq === null ? {} : { after: lastSeq }),
  reconnectionDelay: 300,
  reconnectionDelayMax: 3000,
});

/** Connects, and from then on stays connected until the cookie expires. */
export function start() {
  socket.on("connect", () => {
    connection.value = "live";
    refreshAll(); // after connecting, so that nothing falls between the fetch and the first event
  });
  socket.on("disconnect", retreat);
  socket.on("connect_error", retreat);
  socket.on("event", hear);
  socket.on("TaskMessageQueued", (taskId, pending) => countPending(taskId, pending));
  socket.on("TaskMessageDelivered", (taskId, pending) => countPending(taskId, pending));
  effect(() => {
    const id = selectedId.value;
    if (id && connection.peek() === "live") refreshSelected(id);
  });
  effect(() => {
    if (connection.value === "expired") socket.disconnect();
  });
  setInterval(() => {
    if (connection.value === "live" && !document.hidden) requestOthers();
  }, OTHERS_MS);
  for (const type of ["focus", "visibilitychange"]) addEventListener(type, reviveIfExpired);
  requestTasks();
  socket.connect();
}

/**
 * Sends a message; resolves to what `send --json` prints.
 * Throws `ApiError` with the worker's reason, or "unavailable" when nothing is known of its fate:
 * the same `key` may then be sent again, and is stored once.
 */
export async function sendMessage(taskId, body, options) {
  if (!socket.connected) {
    throw new ApiError("unavailable", "There is no connection to the worker.");
  }
  let answer;
  try {
    answer = await socket.timeout(ACK_TIMEOUT_MS)
      .emitWithAck("SendTaskMessage", taskId, body, options);
  } catch {
    throw new ApiError("unavailable", "The worker did not confirm it.");
  }
  if (answer?.error) {
    if (answer.error.code === "unauthorized") expire();
    throw new ApiError(answer.error.code, answer.error.detail);
  }
  return answer;
}

// --- fetching ---

const requestTasks = gathered(() => load("tasks", "/api/tasks", putTasks));
const requestTask = perId((id) => load(`task:${id}`, pathOf("tasks", id), putTask));

const requestAsks = gathered(() => load("asks", "/api/asks", (list) => {
  for (const id of putAsks(list)) {
    closeAsk(id, { outcome: null, decided_by: null }); // it is not open; how it ended comes next
    requestAsk(id);
  }
}));
const requestAsk = perId((id) => load(`ask:${id}`, pathOf("asks", id), (ask) => {
  if (ask.closed_at) closeAsk(id, ask);
  else patchAsk(id, ask);
}));
const requestHistory = perId((id) => load(`history:${id}`, `${pathOf("tasks", id)}/history`,
  (moves) => putHistory(id, moves)));
const requestWorkspaces = gathered(() => load("workspaces", "/api/workspaces", (list) => {
  workspaces.value = list;
}));
const requestTokens = gathered(() => load("tokens", "/api/tokens", (list) => {
  tokens.value = list;
}));
const requestOthers = gathered(() => load("others", "/api/foreign", (list) => {
  others.value = list;
}));
const requestLimit = gathered(() => load("worker", "/api/worker", (worker) => {
  attachmentLimit.value = worker.attachment_limit ?? attachmentLimit.value;
}));

export { requestAsk as refreshAsk, requestHistory as refreshHistory };
export { requestTask as refreshTask };
export { requestTokens as refreshTokens, requestWorkspaces as refreshWorkspaces };

/** Null if the worker answers and the cookie is good; an expired one is noticed here. */
const probe = () => load("tasks", "/api/tasks", () => {});

export function refreshAll() {
  for (const request of [requestTasks, requestAsks, requestWorkspaces, requestOthers]) request();
  requestLimit();
  if (selectedId.value) refreshSelected(selectedId.value);
}

function refreshSelected(id) {
  if (id === "workspaces") requestTokens();
  if (PLACES.includes(id)) return;
  requestTask(id);
  refreshThread(id);
  if (histories.value.has(id)) requestHistory(id);
}

// --- events ---

function hear(event) {
  lastSeq = event.seq;
  const { type, payload } = event;
  if (type.startsWith("message.")) hearMessage(type, payload);
  else if (type === "reply.received") hearSaid(payload);
  else if (type.startsWith("ask.")) hearAsk(type, payload);
  else if (type === "task.removed") hearRemoved(payload.task_id);
  else if (type.startsWith("workspace.")) hearWorkspace();
  else if (type === "token.updated" || type === "agent.connected") hearToken();
  else if (type === "session.updated") hearSession(payload);
  else if (payload.task) putTask(payload.task);
  else if (payload.task_id) requestTask(payload.task_id);
  if (type === "status.updated" && histories.value.has(payload.task_id)) {
    requestHistory(payload.task_id);
  }
  refetchOutdated(payload);
}

/** Answers that are under way may be older than an event: they are asked for once more. */
function refetchOutdated({ task_id: taskId, ask_id: askId }) {
  if (requestTasks.busy()) requestTasks();
  if (requestAsks.busy()) requestAsks();
  if (requestTask.busy(taskId)) requestTask(taskId);
  if (requestAsk.busy(askId)) requestAsk(askId);
}

function hearAsk(type, { ask_id: id, outcome, decided_by }) {
  if (type === "ask.closed") closeAsk(id, { outcome, decided_by });
  else requestAsks();
}

/** An ask was decided, wherever that was: it cannot be any more, and says so for a while. */
export function closeAsk(id, { outcome, decided_by, closed_at, reason }) {
  const known = asks.value.get(id);
  if (!known) return;
  const fields = { outcome, decided_by, closed_at: closed_at ?? new Date().toISOString() };
  patchAsk(id, reason ? { ...fields, reason } : fields);
  if (!known.closed_at) setTimeout(() => dropAsk(id), CLOSED_MS);
}

function hearRemoved(taskId) {
  dropTask(taskId);
  for (const [id, ask] of asks.value) if (ask.task === taskId) dropAsk(id);
}

function hearWorkspace() {
  requestTasks();
  requestAsks();
  requestWorkspaces();
  hearToken();
}

function hearToken() {
  if (tokens.value || selectedId.value === "workspaces") requestTokens();
}

function hearSession({ task_id: id, state, waiting_for, since, reason, failure }) {
  const session = tasks.value.get(id)?.session;
  const shown = { ...session, state, waiting_for, since, reason, failure };
  if (session && state) patchTask(id, { session: shown });
  if (!session || !state || id === selectedId.value) requestTask(id); // the heading shows more
}

function hearMessage(type, payload) {
  countPending(payload.task_id, payload.pending);
  if (type === "message.queued") hearSaid(payload);
  else hearReceipts(payload.message_id, payload);
}

/** Something was said: the selected thread is fetched now, others when they are selected. */
function hearSaid({ task_id: taskId, message_id: messageId, thread, sender }) {
  const id = selectedId.value;
  if (!id || PLACES.includes(id)) return;
  if (!messageId) refreshThread(id); // a task's mail was handed over: that was said long ago
  else if ([taskId, thread].includes(id) || sender === `task:${id}`) catchUp(id);
}

function countPending(taskId, pending) {
  if (typeof pending !== "number") return;
  if (!patchTask(taskId, { pending })) requestTask(taskId);
}

// --- the connection ---

async function retreat() {
  if (connection.value === "expired") return;
  connection.value = loaded.value ? "reconnecting" : "connecting";
  await probe(); // tells an expired cookie from an absent worker
  if (connection.value === "expired" || socket.active) return;
  setTimeout(() => socket.connect(), 1000); // the worker closed the connection itself
}

async function reviveIfExpired() {
  if (connection.value !== "expired" || document.hidden) return;
  if ((await probe()) !== null || connection.value !== "expired") return;
  signedIn();
  connection.value = "reconnecting";
  socket.connect();
}
