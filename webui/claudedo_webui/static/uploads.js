// Files on their way to the worker: sent at once when they are chosen, carried by the next message.

import { useState } from "preact/hooks";
import { ApiError, upload } from "./api.js";
import { sizeOf } from "./counts.js";
import { newKey, putFile } from "./drafts.js";
import { expire } from "./fetching.js";
import { attachmentLimit } from "./store.js";

const running = new Map(); // file key → AbortController

/** Uploads files for the draft of a task; each shows there how far it is, or why it is refused. */
export function attach(taskId, files) {
  for (const file of files) send(taskId, file);
}

/** Ends an upload, if it still runs. */
export function forgetUpload(key) {
  running.get(key)?.abort();
  running.delete(key);
}

/** Lets the person choose files for the draft of a task. */
export const choose = (taskId) => chooseFiles((files) => attach(taskId, files));

/** Lets the person choose files, and calls `take` with them. */
export function chooseFiles(take) {
  const input = document.createElement("input");
  input.type = "file";
  input.multiple = true;
  input.addEventListener("change", () => take(input.files));
  input.click();
}

/** Gives what lets files be dropped on a place: attributes, and whether some are held over it. */
export function useDrop(take) {
  const [over, setOver] = useState(false);
  const onDragOver = (event) => bringsFiles(event) && setOver(true);
  const onDragLeave = (event) =>
    event.currentTarget.contains(event.relatedTarget) || setOver(false);
  const onDrop = (event) => {
    setOver(false);
    if (bringsFiles(event)) take(event.dataTransfer.files);
  };
  return { onDragOver, onDragLeave, onDrop, "data-drop": over };
}

/** A file that misses its place must not be opened instead of the page. */
export function keepPage() {
  for (const type of ["dragover", "drop"]) {
    addEventListener(type, (event) => bringsFiles(event) && event.preventDefault());
  }
}

const bringsFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;

async function send(taskId, file) {
  const key = newKey();
  const shown = { key, filename: file.name, size: file.size };
  putFile(taskId, { ...shown, id: null, sent: 0, error: null });
  if (file.size > attachmentLimit.value) {
    const most = sizeOf(attachmentLimit.value);
    putFile(taskId, { key, error: `It has ${sizeOf(file.size)}; at most ${most} are possible.` });
    return;
  }
  const end = new AbortController();
  running.set(key, end);
  const query = new URLSearchParams({ filename: file.name, ...(file.type && { type: file.type }) });
  const path = `/api/tasks/${encodeURIComponent(taskId)}/attachments?${query}`;
  try {
    const kept = await upload(path, file, {
      progress: (sent) => running.has(key) && putFile(taskId, { key, sent }),
      signal: end.signal,
    });
    if (running.has(key)) putFile(taskId, { ...kept, key });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code === "unauthorized") expire();
    if (error.code !== "aborted") putFile(taskId, { key, error: error.message });
  } finally {
    running.delete(key);
  }
}
