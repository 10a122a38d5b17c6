// What was said in a task, fetched in parts: the newest when the task is selected, what is said
// since as it is told, what is older when the reader asks. So a message costs the same in a long
// thread as in a short one.

import { load, pathOf, perId } from "./fetching.js";
import { keepMessages, putMessages, putReceipts, putSpan, spans } from "./store.js";

const PART = 100; // messages of one fetch

const doubtful = new Set(); // ids of tasks whose newest part is to be fetched, known or not
const early = new Map(); // message id → receipts that were told while the message was on its way
let fetches = 0; // those that run

const requestThread = perId((id) =>
  (spans.value.get(id)?.last && !doubtful.has(id) ? fetchNewer(id) : fetchNewest(id)));

/** Fetches the newest messages of a task, also those that are known: their receipts may be old. */
export function refreshThread(id) {
  doubtful.add(id);
  requestThread(id);
}

/** Fetches what was said since. */
export const catchUp = requestThread;

/** Fetches what was said before the oldest message that is known; resolves when it is there. */
export async function fetchEarlier(id) {
  const span = spans.value.get(id);
  const failure = await fetchPart(id, { before: span.first }, (messages) => {
    const now = spans.value.get(id);
    if (now?.first !== span.first) return; // another answer came first
    putMessages(id, messages);
    putSpan(id, { ...now, first: messages[0]?.id ?? now.first, whole: messages.length < PART });
  });
  if (failure === "usage") beginAnew(id);
}

/** A message at an end is gone, with the task it went to: nothing stands next to it. */
function beginAnew(id) {
  putSpan(id, null);
  refreshThread(id);
}

/** Takes receipts that were told, also of a message that is not here yet. */
export function hearReceipts(messageId, told) {
  if (!putReceipts(messageId, told) && fetches > 0) early.set(messageId, told);
}

async function fetchNewest(id) {
  doubtful.delete(id);
  const failure = await fetchPart(id, {}, (messages) => {
    const span = spans.value.get(id);
    const whole = messages.length < PART;
    const joined = Boolean(span?.first) && messages.some((message) => message.id === span.last);
    if (!whole && !joined) keepMessages(id, messages); // what lies between is not known
    putMessages(id, messages);
    putSpan(id, {
      first: joined && !whole ? span.first : messages[0]?.id ?? null,
      last: messages.at(-1)?.id ?? null,
      whole: whole || (joined && span.whole),
    });
  });
  if (failure) doubtful.add(id);
}

async function fetchNewer(id) {
  let more = true;
  while (more) {
    more = false;
    const failure = await fetchPart(id, { after: spans.value.get(id).last }, (messages) => {
      putMessages(id, messages);
      const span = spans.value.get(id);
      putSpan(id, { ...span, last: messages.at(-1)?.id ?? span.last });
      more = messages.length === PART;
    });
    if (failure === "usage") beginAnew(id);
  }
}

async function fetchPart(id, place, put) {
  fetches += 1;
  const query = new URLSearchParams({ limit: PART, ...place });
  try {
    return await load(`thread:${id}`, `${pathOf("tasks", id)}/messages?${query}`, (messages) => {
      put(messages);
      for (const [messageId, told] of early) putReceipts(messageId, told);
    });
  } finally {
    fetches -= 1;
    if (fetches === 0) early.clear();
  }
}
