// Keeps the store true to the worker: fetches over HTTP, hears of changes over Socket.IO.
// An event means "this changed": it is used for what it carries, the rest is fetched again.

import { effect } from "@preact/signals";
import { io } from "socket.io-client";
import { ApiError, get } from "./api.js";
import {
  PLACES, asks, attachmentLimit, connection, dropAsk, dropTask, histories, loaded, others,
  patchAsk, patchTask, putAsks, putHistory, putMessages, putReceipts, putTask, putTasks,
  selectedId, setProblem, tasks, threads, tokens, workspaces,
} from "./store.js";

const OTHERS_MS = 60_000; // sessions that are not ours tell nothing by themselves
const CLOSED_MS = 15_000; // so long a decided ask says who decided
const GATHER_MS = 100; // events come in bursts: one fetch answers all of a burst
const ACK_TIMEOUT_MS = 15_000;

let signIns = 0; // how often an expired page came back: a refusal from before that says nothing
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

/** Runs `load` soon: once for many requests, and again if asked while it runs. */
function gathered(load) {
  let timer = null;
  let running = false;
  let again = false;
  async function run() {
    timer = null;
    running = true;
    try {
      await load();
    } finally {
      running = false;
      if (again) request();
    }
  }
  function request() {
    again = running;
    if (!running && timer === null) timer = setTimeout(run, GATHER_MS);
  }
  request.busy = () => running;
  return request;
}

/** Fetches `path` into the store by `put`; a failure becomes the problem shown under `key`. */
async function load(key, path, put) {
  const asked = signIns;
  try {
    put(await get(path));
    setProblem(key, null);
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code !== "unauthorized") setProblem(key, error.message);
    else if (asked === signIns) expire();
    return false;
  }
}

/** One `gathered` fetch for each id. */
function perId(fetchOne) {
  const requests = new Map();
  return (id) => {
    if (!requests.has(id)) requests.set(id, gathered(() => fetchOne(id)));
    requests.get(id)();
  };
}

const pathOf = (kind, id) => `/api/${kind}/${encodeURIComponent(id)}`;

const requestTasks = gathered(() => load("tasks", "/api/tasks", putTasks));
const requestTask = perId((id) => load(`task:${id}`, pathOf("tasks", id), putTask));
const requestThread = perId((id) => load(`thread:${id}`, `${pathOf("tasks", id)}/messages`,
  (messages) => putMessages(id, messages)));
const requestReceipts = perId((id) => load(`message:${id}`,
  `${pathOf("messages", id)}?rung=stored&wait=0`, (message) => putReceipts(id, message)));

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

/** True if the worker answers and the cookie is good; an expired one is noticed here. */
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
  requestThread(id);
}

// --- events ---

function hear(event) {
  lastSeq = event.seq;
  const { type, payload } = event;
  if (type.startsWith("message.")) hearMessage(type, payload);
  else if (type === "reply.received") refetchThreads(payload);
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
  if (requestTasks.busy()) requestTasks(); // the list under way may be older than this event
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
  const { task_id: taskId, message_id: id, pending, message, receipts } = payload;
  countPending(taskId, pending);
  if (message) {
    for (const shown of threadsOf(message, taskId)) putMessages(shown, [message]);
  } else if (receipts && putReceipts(id, payload)) {
    return;
  } else if (type !== "message.queued" && isLoaded(id)) {
    requestReceipts(id);
  } else {
    refetchThreads(payload);
  }
}

/** The loaded threads that a message belongs to: its recipient's, and its sender's. */
const threadsOf = ({ sender }, taskId) =>
  [...threads.value.keys()].filter((id) => id === taskId || sender === `task:${id}`);

const isLoaded = (messageId) => [...threads.value.values()].some((thread) => thread.has(messageId));

/** Of an unknown message: the selected thread is fetched now, others when they are selected. */
function refetchThreads({ task_id: taskId, thread, sender }) {
  const id = selectedId.value;
  const mayConcern = [taskId, thread].includes(id) || (sender ?? `task:${id}`) === `task:${id}`;
  if (id && !PLACES.includes(id) && mayConcern) requestThread(id);
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

function expire() {
  connection.value = "expired";
  socket.disconnect();
}

async function reviveIfExpired() {
  if (connection.value !== "expired" || document.hidden) return;
  if (!(await probe()) || connection.value !== "expired") return;
  signIns += 1;
  connection.value = "reconnecting";
  socket.connect();
}
