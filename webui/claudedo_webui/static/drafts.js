// What is written but not yet sent, one draft for each task.

import { signal } from "@preact/signals";
import { ApiError } from "./api.js";
import { keep, restored } from "./kept.js";
import { sendMessage } from "./live.js";
import { forgetUpload } from "./uploads.js";
import { putMessages, tasks } from "./store.js";

const MAX_BODY_BYTES = 256 * 1024; // the worker's limit
const STORAGE = "claudedo.drafts";
const EMPTY = Object.freeze({
  text: "", priority: "normal", replyTo: null, files: [],
  attempt: null, phase: "writing", error: null,
});

const drafts = signal(new Map(
  restored(STORAGE).map(([id, draft]) => [id, { ...EMPTY, ...draft }]),
));

export const draftOf = (taskId) => drafts.value.get(taskId) ?? EMPTY;

/**
 * Changes a draft: `text`, `priority`, `replyTo`. A shown error or question is withdrawn.
 * Nothing changes while it is being sent.
 */
export function edit(taskId, fields) {
  const draft = draftOf(taskId);
  if (draft.phase === "sending") return;
  put(taskId, { ...draft, phase: "writing", error: null, ...fields });
}

/** Adds a file, or changes what is known of it; `key` says which. It may come while sending. */
export function putFile(taskId, file) {
  const draft = draftOf(taskId);
  const known = draft.files.some(({ key }) => key === file.key);
  const files = known
    ? draft.files.map((old) => (old.key === file.key ? { ...old, ...file } : old))
    : [...draft.files, file];
  put(taskId, { ...draft, files });
}

export function dropFile(taskId, key) {
  forgetUpload(key);
  edit(taskId, { files: draftOf(taskId).files.filter((file) => file.key !== key) });
}

/** The files that will go with the message: those that the worker has. */
const carried = (draft) => draft.files.filter((file) => file.id);

/** True while a file is on its way. */
export const uploading = (draft) => draft.files.some((file) => !file.id && !file.error);

/** What will be sent: the text, or the names of the files that come without any. */
const textOf = (draft) => draft.text.trim() !== "" ? draft.text
  : carried(draft).map((file) => file.filename).join(", ");

/** True if Enter would do something. */
export const sendable = (draft) =>
  draft.phase === "writing" && textOf(draft) !== "" && !uploading(draft);

/** What Enter does: sends, or first asks whether a halt is meant. */
export function submit(taskId) {
  const draft = draftOf(taskId);
  if (!sendable(draft)) return;
  if (draft.priority !== "halt") send(taskId);
  else put(taskId, { ...draft, phase: "confirming", error: null });
}

/** Sends the draft; it is emptied once the worker stored it, and kept with the reason if not. */
export async function send(taskId) {
  const draft = draftOf(taskId);
  const attempt = attemptFor(draft);
  put(taskId, { ...draft, attempt, phase: "sending", error: null });
  try {
    checkSize(draft.text);
    const sent = await sendMessage(taskId, textOf(draft), {
      key: attempt.key, priority: draft.priority, reply_to: draft.replyTo?.id ?? null,
      attachments: carried(draft).map((file) => file.id),
    });
    putMessages(taskId, [asMessage(taskId, draft, sent)]);
    const came = draftOf(taskId).files.filter((file) => !draft.files.some(isSame(file)));
    put(taskId, came.length === 0 ? EMPTY : { ...EMPTY, files: came });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    put(taskId, { ...draftOf(taskId), phase: "writing", error: error.message });
  }
}

const isSame = (file) => (other) => other.key === file.key;

/** The same text sent again keeps its key, so that it is stored once; another text gets another. */
function attemptFor(draft) {
  const { priority, replyTo, attempt } = draft;
  const ids = carried(draft).map((file) => file.id);
  const content = JSON.stringify([textOf(draft), priority, replyTo?.id ?? null, ids]);
  return attempt?.content === content ? attempt : { key: newKey(), content };
}

/** A key under which something is stored once, however often it is sent. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function checkSize(text) {
  const size = new TextEncoder().encode(text).length;
  if (size <= MAX_BODY_BYTES) return;
  throw new ApiError("usage", `It has ${size.toLocaleString("en")} bytes; at most `
    + `${MAX_BODY_BYTES.toLocaleString("en")} are possible. Put the long part in a file of the `
    + "worktree and send its name.");
}

/** The message as the thread will show it, until the worker's own version is fetched. */
function asMessage(taskId, draft, sent) {
  return {
    id: sent.id,
    sender: "user",
    sender_name: "user",
    recipient: tasks.value.get(taskId)?.name ?? taskId,
    body: textOf(draft),
    reply_to: draft.replyTo?.id ?? null,
    priority: sent.priority,
    created_at: sent.receipts.stored_at,
    receipts: sent.receipts,
    via: sent.via,
    thread: taskId,
    attachments: carried(draft),
  };
}

// --- storage ---

function put(taskId, draft) {
  const next = new Map(drafts.value);
  if (draft === EMPTY) next.delete(taskId);
  else next.set(taskId, draft);
  drafts.value = next;
  keep(STORAGE, [...next].map(([id, { text, priority, replyTo, attempt, files }]) =>
    [id, { text, priority, replyTo, attempt, files: files.filter((file) => file.id) }]));
}
