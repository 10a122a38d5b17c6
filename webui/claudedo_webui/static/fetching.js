// How state is fetched over HTTP: once for a burst of events, and again when it may be outdated.

import { ApiError, get } from "./api.js";
import { connection, setProblem } from "./store.js";

const GATHER_MS = 100; // events come in bursts: one fetch answers all of a burst

let signIns = 0; // how often an expired page came back: a refusal from before that says nothing

/** Runs `load` soon: once for many requests, and again if asked while it runs. */
export function gathered(load) {
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

/** One `gathered` fetch for each id. */
export function perId(fetchOne) {
  const requests = new Map();
  function request(id) {
    if (!requests.has(id)) requests.set(id, gathered(() => fetchOne(id)));
    requests.get(id)();
  }
  request.busy = (id) => requests.get(id)?.busy() ?? false;
  return request;
}

/**
 * Fetches `path` into the store by `put`; a failure becomes the problem shown under `key`.
 * Resolves to null, or to the code of the failure.
 */
export async function load(key, path, put) {
  const asked = signIns;
  try {
    put(await get(path));
    setProblem(key, null);
    return null;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code !== "unauthorized") setProblem(key, error.message);
    else if (asked === signIns) expire();
    return error.code;
  }
}

/** The cookie is not good any more. */
export function expire() {
  connection.value = "expired";
}

/** It is good again. */
export function signedIn() {
  signIns += 1;
}

export const pathOf = (kind, id) => `/api/${kind}/${encodeURIComponent(id)}`;
