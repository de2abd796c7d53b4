// The language of searches, as far as completing it needs. Pure: text, the caret, and what is known go in; suggestions come out.

export const QUALIFIERS = [
  ["state:", "ready, scheduled, running, dead, retrying"],
  ["task:", "the task's name; * stands for anything"],
  ["queue:", "the queue, or one shard of it"],
  ["error:", "part of type or message of the last error"],
  ["error_type:", "the type of the last error, whole"],
  ["frame:", "the innermost frame of its traceback"],
  ["args.", "an argument: args.user_id:42, args.0:42"],
  ["id:", "a job's id, or its beginning"],
  ["worker:", "who runs it, as host or host:pid"],
  ["priority:", "0 to 1000 or by name; lower first"],
  ["attempts>=", "failed runs"],
  ["crashes>", "workers that died with it"],
  ["age>", "since its submit: age>5m"],
  ["waited>", "since it is ready"],
  ["due<", "until it is ready"],
  ["died<", "since it is dead"],
  ["tag:", "a tag given at submit"],
  ["header.", "a header: header.tenant:acme"],
  ["unique:", "the unique key"],
];
const VALUES = { state: ["ready", "scheduled", "running", "dead", "retrying"], priority: ["high", "normal", "low"] };
const TIMES = { age: ["30s", "5m", "1h", "1d"], waited: ["10s", "1m", "10m", "1h"], due: ["1m", "1h", "1d"], died: ["5m", "1h", "1d"] };
const MOST = 9;

/** The words of a query as [start, end]; quoted parts belong to their word. */
function wordsOf(text) {
  const found = [];
  let quoted = false;
  let start = -1;
  for (let index = 0; index <= text.length; index += 1) {
    const character = text[index];
    const ends = index === text.length || (/\s/.test(character) && !quoted);
    if (character === '"' && text[index - 1] !== "\\") quoted = !quoted;
    if (ends && start >= 0) found.push([start, index]);
    if (ends) start = -1;
    else if (start < 0) start = index;
  }
  return found;
}

/** The word that the caret is in or behind: [start, end, text]. */
export function wordAt(text, caret) {
  const [start, end] = wordsOf(text).find(([from, to]) => from <= caret && caret <= to) ?? [caret, caret];
  return [start, end, text.slice(start, end)];
}

/** A value in quotes, which fits text only. */
export const quotedText = (value) => `"${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;

/** A value as the language has it: in quotes where it needs them. */
export const quoted = (value) => (/^[^\s,"*\\-][^\s,"*\\]*$/.test(value) ? value : quotedText(value));

/** What may be meant: [{ start, end, insert, about, more }]; `more`: a value is to follow. known: { task: [...], queue: [...], ... }. */
export function suggest(text, caret, known = {}) {
  const [start, end, word] = wordAt(text, caret);
  const minus = word.startsWith("-") ? "-" : "";
  const plain = word.slice(minus.length);
  const found = plain.match(/^([a-z_]+)(:|>=|<=|>|<)(.*)$/s);
  const item = (insert, about, more) => ({ start, end, insert: minus + insert, about, more });
  if (!found) {
    const names = [...QUALIFIERS.map(([name, about]) => [name, about, true]), ...(known.args ?? []).map((name) => [`args.${name}:`, "an argument", true])];
    return names.filter(([name]) => name.startsWith(plain.toLowerCase()) && name !== plain).slice(0, MOST).map((each) => item(...each));
  }
  const [, name, operator, value] = found;
  const comma = value.lastIndexOf(",") + 1;
  const [before, last] = [value.slice(0, comma), value.slice(comma).toLowerCase()];
  const values = VALUES[name] ?? TIMES[name] ?? known[name] ?? [];
  const fits = values.filter((each) => each.toLowerCase().includes(last) && each !== value.slice(comma)).slice(0, MOST);
  return fits.map((each) => item(`${name}${operator}${before}${quoted(each)}`, "", false));
}

const listed = (text) => wordsOf(text).map(([start, end]) => text.slice(start, end));

/** The query with its `state:` term set, or without one where it has just that. */
export function withState(text, state) {
  const others = listed(text).filter((word) => !word.startsWith("state:"));
  return [...others, ...(stateOf(text) === state ? [] : [`state:${state}`])].join(" ");
}

/** The states that a query names, as they stand there; "" where it names none. */
export const stateOf = (text) => listed(text).find((word) => word.startsWith("state:"))?.slice("state:".length) ?? "";

/** The id of the job, where somebody searches for nothing but a whole id: it is found also when the job has ended. */
export const idIn = (text) => text.match(/^(?:id:)?([\w-]{1,64}(?:\.\d{1,4})?\.[0-9a-f]{43})$/)?.[1] ?? "";
