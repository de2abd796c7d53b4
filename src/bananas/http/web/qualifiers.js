// The language of searches, as far as completing it needs. Pure: text, the caret, and what is known go in; suggestions come out.

export const QUALIFIERS = [
  ["state:", "ready, scheduled, running, dead, retrying"],
  ["task:", "the task's name; * stands for anything"],
  ["queue:", "the queue, or one shard of it"],
  ["error:", "part of type or message of the last error"],
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

/** The word that the caret is in: [start, end, text]. Quoted parts belong to their word. */
export function wordAt(text, caret) {
  let start = 0;
  let quoted = false;
  for (let index = 0; index < caret; index += 1) {
    if (text[index] === '"' && text[index - 1] !== "\\") quoted = !quoted;
    else if (/\s/.test(text[index]) && !quoted) start = index + 1;
  }
  const rest = text.slice(caret).search(/\s/);
  const end = rest === -1 ? text.length : caret + rest;
  return [start, end, text.slice(start, end)];
}

/** A value as the language has it: in quotes where it needs them. */
export const quoted = (value) => (/^[^\s,"*\\-][^\s,"*\\]*$/.test(value) ? value : `"${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`);

/** What may be meant: [{ start, end, insert, about, more }]; `more`: a value is to follow. known: { task: [...], queue: [...], ... }. */
export function suggest(text, caret, known = {}) {
  const [start, end, word] = wordAt(text, caret);
  const minus = word.startsWith("-") ? "-" : "";
  const plain = word.slice(minus.length);
  const found = plain.match(/^([a-z]+)(:|>=|<=|>|<)(.*)$/s);
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

/** The query with its `state:` term set, or without one where it has just that. */
export function withState(text, state) {
  const others = text.replace(/(^|\s)state:[^\s]*/g, " ").replace(/\s+/g, " ").trim();
  return stateOf(text) === state ? others : `${others} state:${state}`.trim();
}

/** The state that a query names, if it names just one. */
export const stateOf = (text) => text.match(/(?:^|\s)state:([a-z,]+)(?=\s|$)/)?.[1] ?? "";
