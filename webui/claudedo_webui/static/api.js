// The worker's HTTP routes (docs/architecture.md), and how their errors become ours.

/** Something the worker refused or could not do; `message` is worded for the reader. */
export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const READ_MS = 20_000;
const CHANGE_MS = 180_000; // to end a workspace means to end its sessions first

/** The JSON that the worker answers to GET `path`; throws `ApiError`. */
export const get = (path) => ask("GET", path);

/** The JSON that the worker answers to a request that changes something; throws `ApiError`. */
export async function ask(method, path, body) {
  const content = body === undefined ? {} : {
    body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  let response;
  try {
    response = await fetch(path, {
      method,
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(method === "GET" ? READ_MS : CHANGE_MS),
      ...content,
    });
  } catch (error) {
    throw new ApiError("unavailable", `The worker cannot be reached (${error.message}).`);
  }
  if (!response.ok) throw problemOf(response.status, await response.text());
  return response.json();
}

/**
 * Sends a file's bytes to `path`, and tells `progress` how many went out. Resolves to the worker's
 * JSON; throws `ApiError`. `signal` ends it.
 */
export function upload(path, file, { progress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how far an upload is
    request.open("POST", path);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => progress(event.loaded);
    request.onload = () => {
      if (request.status === 200) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText));
    };
    request.onerror = () => reject(new ApiError("unavailable", "The upload broke off."));
    request.onabort = () => reject(new ApiError("aborted", "The upload was ended."));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** The error in an `application/problem+json` answer, or the status if something else answered. */
function problemOf(status, text) {
  let problem;
  try {
    problem = JSON.parse(text);
  } catch {
    problem = {}; // not the worker's own answer: a proxy's page, or a body cut short
  }
  return new ApiError(
    status === 401 ? "unauthorized" : problem.code ?? "failed",
    problem.detail ?? problem.title ?? `The worker answered ${status}.`,
  );
}
