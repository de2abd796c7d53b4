// Asking the API. Paths are relative to the page, so it works below a mount; the token stays in this tab.

const BASE = new URL(".", document.baseURI);
const KEY = `bananas.token:${BASE.pathname}`;
const refusals = new Set();
let skew = 0;

/** What went wrong, as the API tells it: status (0: nobody answered), a name, and a sentence. */
export class Problem extends Error {
  constructor(status, name, detail) {
    super(detail);
    Object.assign(this, { status, kind: name, detail });
  }
}

export const token = () => sessionStorage.getItem(KEY) || "";

export function keepToken(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Call back when the API no longer knows who we are. Returns how to stop that. */
export function onRefused(callback) {
  refusals.add(callback);
  return () => refusals.delete(callback);
}

/** The server's time: ages are right also where this machine's clock is not. */
export const now = () => Date.now() + skew;

/** A path with parameters; what is undefined, null or "" is left out. */
export function withQuery(path, params) {
  const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The JSON that an answer has; whole numbers that a double cannot hold stay exact, as BigInt. */
export function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context && !Number.isSafeInteger(value) && /^-?\d+$/.test(context.source) ? BigInt(context.source) : value,
  );
}

const unreachable = (error) =>
  error.name === "AbortError" ? error : new Problem(0, "Unreachable", "The API does not answer: the process is down, or the network between.");

/** The response, if it is a good one. Throws Problem, or AbortError. */
export async function send(method, path, { body, signal, accept } = {}) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (accept) headers.Accept = accept;
  let answer;
  try {
    answer = await fetch(new URL(`api/v1${path}`, BASE), { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (error) {
    throw unreachable(error);
  }
  note(answer.headers.get("date"));
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) refusals.forEach((callback) => callback());
  throw new Problem(answer.status, String(told.type || "").replace("urn:bananas:problem:", ""), told.detail || `The API answered ${answer.status}.`);
}

/** The value of an answer. */
export async function ask(method, path, options) {
  return parse(await (await send(method, path, options)).text());
}

export const get = (path, signal) => ask("GET", path, { signal });
export const post = (path, body, options = {}) => ask("POST", path, { ...options, body });

/** Each event of a stream of server-sent events, as [name, value], until it ends. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw unreachable(error);
    });
    if (done) return;
    const blocks = (kept + value).split("\n\n");
    kept = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => line.match(/^(event|data): ?(.*)$/)).filter(Boolean);
      const data = fields.filter(([, name]) => name === "data").map(([, , text]) => text).join("\n");
      if (data) yield [fields.find(([, name]) => name === "event")?.[2] ?? "message", parse(data)];
    }
  }
}

function note(date) {
  const theirs = Date.parse(date || "");
  const found = theirs + 500 - Date.now();
  skew = Math.abs(found) > 2000 ? found : 0;
  if (Number.isNaN(skew)) skew = 0;
}
