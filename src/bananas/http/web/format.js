// Numbers, sizes and times as people read them.

const grouped = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const UNITS = [["d", 86_400], ["h", 3_600], ["m", 60], ["s", 1]];

export const number = (value) => (value === null || value === undefined ? "–" : grouped.format(value));
export const compact = (value) => (Math.abs(value) < 10_000 ? grouped.format(value) : short.format(value));
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** A duration: 850 ms, 12 s, 3 m 20 s, 2 h 5 m, 4 d 3 h. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1) return ms > 0 ? "<1 ms" : "0 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000 && ms % 1000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const index = UNITS.findIndex(([, size]) => seconds >= size);
  const [unit, size] = UNITS[index];
  const [smaller, part] = UNITS[index + 1] ?? ["", 1];
  const rest = Math.floor((seconds % size) / part);
  return `${Math.floor(seconds / size)} ${unit}${smaller && rest ? ` ${rest} ${smaller}` : ""}`;
}

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, count)) / 10)));
  const value = count / 1024 ** power;
  return `${value.toFixed(value < 10 && power ? 1 : 0)} ${units[power]}`;
}

/** A moment, exactly: local time with its offset. */
export function exact(ms) {
  const date = new Date(ms);
  const offset = -date.getTimezoneOffset();
  const local = new Date(ms + offset * 60_000).toISOString().replace("T", " ").replace("Z", "");
  const sign = offset < 0 ? "-" : "+";
  const two = (value) => String(Math.floor(Math.abs(value))).padStart(2, "0");
  return `${local} ${sign}${two(offset / 60)}:${two(offset % 60)}`;
}

/** A value that was stored, as JSON; whole numbers of any size are exact. */
export function json(value, indent = 0) {
  const big = new Map();
  const mark = "\u0000big:";
  const text = JSON.stringify(
    value,
    (_, each) => {
      if (typeof each !== "bigint") return each;
      const name = `${mark}${big.size}`;
      big.set(name, each.toString());
      return name;
    },
    indent,
  );
  return big.size === 0 ? (text ?? "") : text.replace(/"\\u0000big:(\d+)"/g, (_, index) => big.get(mark + index));
}

/** The call that a job is, in one line: 42, "ada", retries=3. */
export function call(job) {
  if (job.args === null && job.kwargs === null) return job.unreadable ? "(unreadable)" : "";
  const named = Object.entries(job.kwargs ?? {}).map(([name, value]) => `${name}=${json(value)}`);
  return [...(job.args ?? []).map((value) => json(value)), ...named].join(", ");
}

/** The part of an id by which people tell jobs apart: the random end of its UUID; task and priority follow, and are the same for many. */
export const shortId = (id) => id.slice(-19, -11);

const PRIORITIES = { 100: "high", 500: "normal", 900: "low" };
export const priorityName = (value) => PRIORITIES[value] ?? String(value);
