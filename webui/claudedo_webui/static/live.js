// Keeps the store true to the worker: fetches over HTTP, hears of changes over Socket.IO.
// An event means "this changed": it is used for what it carries, the rest is fetched again.

import { effect } from "@preact/signals";
import { io } from "socket.io-client";
import { ApiError, get } from "./api.js";
import {
  connection, dropTask, loaded, patchTask, putMessages, putReceipts, putTask, putTasks,
  selectedId, setProblem, tasks, threads,
} from "./store.js";

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

/** True if the worker answers and the cookie is good; an expired one is noticed here. */
const probe = () => load("tasks", "/api/tasks", () => {});

export function refreshAll() {
  requestTasks();
  if (selectedId.value) refreshSelected(selectedId.value);
}

function refreshSelected(id) {
  requestTask(id);
  requestThread(id);
}

// --- events ---

function hear(event) {
  lastSeq = event.seq;
  const { type, payload } = event;
  if (type.startsWith("message.")) hearMessage(type, payload);
  else if (type === "task.removed") dropTask(payload.task_id);
  else if (type === "workspace.updated") requestTasks();
  else if (type === "session.updated") hearSession(payload);
  else if (payload.task) putTask(payload.task);
  else requestTask(payload.task_id);
  if (requestTasks.busy()) requestTasks(); // the list under way may be older than this event
}

function hearSession({ task_id: id, state, waiting_for, since, reason }) {
  const session = tasks.value.get(id)?.session;
  const shown = { ...session, state, waiting_for, since, reason };
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
  } else if (type !== "message.queued" && isShown(id)) {
    requestReceipts(id);
  } else {
    refetchThreads(taskId, payload.sender);
  }
}

/** The loaded threads that a message belongs to: its recipient's, and its sender's. */
const threadsOf = ({ sender }, taskId) =>
  [...threads.value.keys()].filter((id) => id === taskId || sender === `task:${id}`);

const isShown = (messageId) => [...threads.value.values()].some((thread) => thread.has(messageId));

/** Of an unknown message: the selected thread is fetched now, others when they are selected. */
function refetchThreads(taskId, sender) {
  const id = selectedId.value;
  const mayConcern = id === taskId || sender === undefined || sender === `task:${id}`;
  if (id && mayConcern) requestThread(id);
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
