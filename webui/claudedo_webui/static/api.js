// The worker's HTTP routes (docs/architecture.md), and how their errors become ours.

/** Something the worker refused or could not do; `message` is worded for the reader. */
export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const TIMEOUT_MS = 20_000;

/** The JSON that the worker answers to GET `path`; throws `ApiError`. */
export async function get(path) {
  let response;
  try {
    response = await fetch(path, {
      headers: { Accept: "application/json" },
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch (error) {
    throw new ApiError("unavailable", `The worker cannot be reached (${error.message}).`);
  }
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

/** The error in an `application/problem+json` answer, or the status if something else answered. */
async function problemOf(response) {
  const fallback = response.status === 401 ? "unauthorized" : "failed";
  let problem;
  try {
    problem = await response.json();
  } catch {
    problem = {}; // not the worker's own answer: a proxy's page, or a body cut short
  }
  return new ApiError(
    response.status === 401 ? "unauthorized" : problem.code ?? fallback,
    problem.detail ?? problem.title ?? `The worker answered ${response.status}.`,
  );
}
